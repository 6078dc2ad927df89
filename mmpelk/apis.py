"""Trained models in a few lines: segmentation, detection and classification through OpenMMLab's own inferencers.

``inference(init_model(config, checkpoint), 'photographs/', out_dir='overlays')`` predicts and draws (docs/deployment.md).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.utils import ProgressBar

from mmpelk.checkpoints import check_fit, model_weights, read_checkpoint
from mmpelk.errors import InputError, build_errors
from mmpelk.inference import VISUALIZER, dataset_meta, draw, framework, read_image, usable_device
from mmpelk.launch import read_config

IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        name: The file's without its ending.
        frames: Image files, (H, W, 3) uint8 BGR arrays, or a video that reads them one by one.
    """

    name: str
    frames: Sequence[Path | np.ndarray] | mmcv.VideoReader

    @property
    def is_video(self) -> bool:
        return isinstance(self.frames, mmcv.VideoReader)

    @property
    def picture_name(self) -> str:
        return f'{self.name}{".mp4" if self.is_video else ".png"}'


Input = str | Path | np.ndarray | Source
Inputs = Input | Sequence[Input]


def init_model(config: str | Path | Config, checkpoint: str | Path, device: str | None = None) -> BaseInferencer:
    """The inferencer of the config's framework, with a checkpoint's weights: an MMSegInferencer, a DetInferencer or an
    ImageClassificationInferencer, which takes images by itself, too.

    Args:
        config: A config file, or what was read from one.
        checkpoint: A checkpoint file.
        device: 'cpu', 'cuda:0', ...; the GPU if there is one by default.

    Raises:
        InputError: If the config or the checkpoint is missing, broken or unsafe, one does not fit the other, or neither names the
            classes.
    """
    cfg = copy.deepcopy(config) if isinstance(config, Config) else read_config(str(config))
    device, scope = usable_device(device), framework(cfg)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    if not dataset or 'pipeline' not in dataset:
        raise InputError('the config has no test_dataloader.dataset.pipeline, which says how to prepare an image')
    cfg.setdefault('visualizer', dict(type=VISUALIZER[scope]))
    weights = read_checkpoint(checkpoint)
    init_default_scope(scope)
    with build_errors(AttributeError, AssertionError):
        inferencer = _build_inferencer(cfg, str(checkpoint), device)
    check_fit(model_weights(weights), inferencer.model, checkpoint)
    inferencer.model.dataset_meta = dataset_meta(cfg, weights, checkpoint)
    inferencer.cfg = cfg
    return inferencer


def _build_inferencer(cfg: Config, checkpoint: str, device: str) -> BaseInferencer:
    if cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(cfg, checkpoint, device=device)
    if cfg.default_scope == 'mmdet':
        from mmdet.apis import DetInferencer

        return DetInferencer(cfg, checkpoint, device=device)
    from mmpretrain.apis import ImageClassificationInferencer

    return ImageClassificationInferencer(cfg, checkpoint, device=device)


def inference(
    inferencer: BaseInferencer, inputs: Inputs, out_dir: str | Path | None = None, progress: bool = True
) -> list[BaseDataElement]:
    """Predictions on images, folders of images and videos.

    Args:
        inferencer: From :func:`init_model`.
        inputs: An image file, a folder, a video file, an (H, W, 3) uint8 BGR array, what
            :func:`find_sources` found, or several of them.
        out_dir: Where to draw the predictions: a PNG for each image, an MP4 for each video. None draws nothing.
        progress: Whether to show a bar with the time left.

    Returns:
        One data sample for each image and frame, in order: ``pred_sem_seg``, ``pred_instances`` or ``pred_label``. Segmentors' logits
        are left out, as they are many times larger than the image.

    Raises:
        InputError: If a file is missing or unreadable, a folder holds no image, or two results would get the same name.
    """
    return list(predictions(inferencer, inputs, out_dir, progress))


def predictions(
    inferencer: BaseInferencer, inputs: Inputs, out_dir: str | Path | None = None, progress: bool = True
) -> Iterator[BaseDataElement]:
    """The same one by one, for videos whose data samples would not fit in memory together."""
    sources = find_sources(inputs)
    names = [source.picture_name for source in sources]
    if out_dir is not None and len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f'two of the inputs would be drawn as {repeated}, one over the other')
    bar = ProgressBar(sum(len(source.frames) for source in sources)) if progress else None
    for source in sources:
        with contextlib.ExitStack() as stack:
            write = None if out_dir is None else stack.enter_context(_writer(source, Path(out_dir)))
            sample = None
            for frame in source.frames:
                image = frame if isinstance(frame, np.ndarray) else read_image(frame)
                sample = predict(inferencer, image)
                if write:
                    write(draw(inferencer.model, inferencer.cfg, image, sample))
                if bar:
                    bar.update()
                yield sample
            if sample is None:
                raise InputError(f'cannot read video {source.name}: none of its frames can be decoded')


def predict(inferencer: BaseInferencer, image: np.ndarray) -> BaseDataElement:
    """The data sample of one (H, W, 3) uint8 BGR image, on the CPU. Not for several threads at once: it redirects stdout.

    Raises:
        InputError: If the array has another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f'images must be (H, W, 3) uint8 arrays, got {image.shape} {image.dtype}')
    with (
        DefaultScope.overwrite_default_scope(inferencer.cfg.default_scope),  # another framework's model may be there, too
        contextlib.redirect_stdout(io.StringIO()),  # they show a bar for each call
    ):
        result = inferencer(image, return_datasamples=True)
    if isinstance(result, dict):  # mmdet's
        result = result['predictions']
    sample = result[0] if isinstance(result, list) else result
    if 'seg_logits' in sample:
        del sample.seg_logits
    return sample.cpu()


def find_sources(inputs: Inputs) -> list[Source]:
    """The images and videos that ``inputs`` of :func:`inference` name, those of a folder in the order of their names.

    Raises:
        InputError: If a folder holds no image, or a video is missing or unreadable.
    """
    sources = []
    for item in [inputs] if isinstance(inputs, Input) else inputs:
        if isinstance(item, Source):
            sources.append(item)
        elif isinstance(item, np.ndarray):
            sources.append(Source(f'{len(sources):06d}', [item]))
        elif Path(item).is_dir():
            sources += [Source(path.stem, [path]) for path in images_in(Path(item))]
        elif Path(item).suffix.lower() in VIDEOS:
            sources.append(Source(Path(item).stem, _video(item)))
        else:
            sources.append(Source(Path(item).stem, [Path(item)]))
    return sources


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        InputError: If there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f'folder {folder} holds no image; expected files ending in {", ".join(IMAGES)}')
    return files


def _video(path: str | Path) -> mmcv.VideoReader:
    if not Path(path).is_file():
        raise InputError(f'video {path} does not exist')
    video = mmcv.VideoReader(str(path))
    if video.frame_cnt < 1:  # mmcv counts negative frames in some broken files
        raise InputError(f'cannot read video {path}: OpenCV finds no frame in it')
    return video


@contextlib.contextmanager
def _writer(source: Source, out_dir: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Takes BGR pictures of a source; a video appears once it is complete."""
    if not source.is_video:
        yield lambda picture: mmcv.imwrite(picture, str(out_dir / source.picture_name))
        return
    unfinished, video = out_dir / f'.{source.name}-unfinished.mp4', None

    def write(picture: np.ndarray) -> None:
        nonlocal video
        if video is None:
            out_dir.mkdir(parents=True, exist_ok=True)
            size = picture.shape[1::-1]
            video = cv2.VideoWriter(str(unfinished), cv2.VideoWriter_fourcc(*'mp4v'), source.frames.fps or 25, size)
            if not video.isOpened():
                raise InputError(f'OpenCV cannot write the video {out_dir / source.picture_name}')
        video.write(picture)

    try:
        yield write
        video.release()  # there is one: a video without frames is an error before
        unfinished.replace(out_dir / source.picture_name)
    finally:
        unfinished.unlink(missing_ok=True)
