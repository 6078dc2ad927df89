"""Export a checkpoint to a file."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from mmpelk.apis import load_model
from mmpelk.models.backbones import large_kernel_backbones
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_atomically

from .example_images import crop_size, random_images, read_tensor
from .exporting import Exportable, check_size, export, task
from .folding import fold
from .onnx_files import check_onnx, metadata, to_onnx


def export_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    out: Path,
    part: str | None = None,
    size: Sequence[int] | None = None,
    batch: int = 1,
    dynamic: bool = False,
    images: Sequence[str] = (),
) -> None:
    """Fold a model, export it, and print each step. An ONNX file is compared with torch before it is written.

    Args:
        cfg: The config of the checkpoint.
        checkpoint: The checkpoint file.
        out: The file to write, which ends in .onnx or .pt2.
        part: See :class:`Exportable`. Defaults to 'model', or to 'neck' for detectors.
        size: Height and width of the images. Defaults to the crop size of the config.
        batch: Number of images.
        dynamic: See :func:`export`.
        images: Image files for the comparison with torch. Random values are compared if there are none.

    Raises:
        InputError: If the model cannot be exported, or the ONNX file differs from torch.
    """
    if out.suffix not in ('.onnx', '.pt2'):
        raise InputError(f'the file to write must end in .onnx or .pt2, got {out}')
    size = size or crop_size(cfg)
    check_size(batch, size, dynamic)
    model = load_model(cfg, checkpoint, 'cpu')
    part = part or ('neck' if task(model) == 'detection' else 'model')
    trained = Exportable(model, part).eval()
    module = copy.deepcopy(trained)
    batches = [read_tensor(image, size) for image in images] or [random_images(size)]
    if large_kernel_backbones(module) and cfg.model.backbone.get('deploy') != 'plain':
        print(f'folded: features differ by {fold(module):.1e}', flush=True)
    program = export(module, batch, size, dynamic)
    print(f'traced: {sum(node.op == "call_function" for node in program.graph.nodes)} operators', flush=True)
    if out.suffix == '.pt2':
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_atomically(buffer.getvalue(), out)
    else:
        content = to_onnx(program, metadata(module, batch, size, dynamic))
        difference, agreement = check_onnx(content, trained, [images.expand(batch, -1, -1, -1) for images in batches])
        compared = f'{len(images)} images' if images else 'random images; use --images for real ones'
        agreeing = f', {agreement:.2%} of the predictions agree' if part == 'model' else ''
        print(f'onnxruntime against torch on {compared}: relative difference {difference:.1e}{agreeing}')
        write_atomically(content, out)
    print(f'{out}: {out.stat().st_size / 2**20:.1f} MiB')
