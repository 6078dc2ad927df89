"""Export a trained model as ONNX (OUT.onnx, opset 20) or as a torch.export program (OUT.pt2), folded and with its normalization inside.

Classifiers and segmentors output logits. --part backbone and --part neck output feature maps; they are the only parts of detectors that are
fixed graphs. The ONNX file is compared with torch before it is written. Its metadata contain the task, classes, and colors, which
tools/onnx_demo.py reads.
"""

from __future__ import annotations

import argparse
import copy
import io
from pathlib import Path

import mmcv
import torch
from mmengine.config import Config
from torch import Tensor

from mmpelk.apis import load_model
from mmpelk.apis.images import read_image
from mmpelk.checkpoints.fit import large_kernel_backbones
from mmpelk.deployment import Exportable, check_onnx, export, fold, metadata, to_onnx
from mmpelk.deployment.exporting import PARTS, check_size, task
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', type=Path, help='file to write, *.onnx or *.pt2')
    parser.add_argument('--part', choices=PARTS, help="default: 'model', or 'neck' for detectors")
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='default: the crop size of the config')
    parser.add_argument('--batch', type=int, default=1, help='number of images; default: %(default)s')
    parser.add_argument('--dynamic', action='store_true', help='allow any batch and any size from 64x64')
    parser.add_argument('--images', nargs='+', default=[], help='images for the comparison with torch; default: random values')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.out.suffix not in ('.onnx', '.pt2'):
        raise InputError(f'the file to write must end in .onnx or .pt2, got {args.out}')
    cfg = read_config(args.config, args.cfg_options)
    size = args.size or crop_size(cfg)
    check_size(args.batch, size, args.dynamic)
    model = load_model(cfg, args.checkpoint, 'cpu')
    part = args.part or ('neck' if task(model) == 'detection' else 'model')
    trained = Exportable(model, part).eval()
    module = copy.deepcopy(trained)
    batches = [read_tensor(image, size) for image in args.images] or [random_images(size)]
    if large_kernel_backbones(module) and cfg.model.backbone.get('deploy') != 'plain':
        print(f'folded: features differ by {fold(module):.1e}', flush=True)
    program = export(module, args.batch, size, args.dynamic)
    print(f'traced: {sum(node.op == "call_function" for node in program.graph.nodes)} operators', flush=True)
    if args.out.suffix == '.pt2':
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        write_atomically(buffer.getvalue(), args.out)
    else:
        content = to_onnx(program, metadata(module, args.batch, size, args.dynamic))
        difference, agreement = check_onnx(content, trained, [images.expand(args.batch, -1, -1, -1) for images in batches])
        compared = f'{len(args.images)} images' if args.images else 'random images; use --images for real ones'
        maxima = f', {agreement:.2%} of the maxima agree' if part == 'model' else ''
        print(f'onnxruntime against torch on {compared}: relative difference {difference:.1e}{maxima}')
        write_atomically(content, args.out)
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB')


def crop_size(cfg: Config) -> tuple[int, int]:
    """Return the (height, width) with which the config trains a segmentor or tests a classifier."""
    sizes = [cfg.model.get('data_preprocessor', {}).get('size')]
    pipeline = (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', [])
    sizes += [step.get('crop_size') for step in pipeline]
    sizes += [
        step.scale[::-1] if isinstance(step.scale, (list, tuple)) else step.scale for step in pipeline if step.type == 'Resize'
    ]
    size = next(filter(None, sizes), None) if cfg.get('default_scope') != 'mmdet' else None
    if size is None:
        raise InputError('the config has no crop size; use --size H W')
    return (size, size) if isinstance(size, int) else tuple(size)


def read_tensor(path: str, size: tuple[int, int]) -> Tensor:
    """Read an image file as a (1, 3, H, W) RGB tensor with values from 0 to 255."""
    image = mmcv.imresize(mmcv.bgr2rgb(read_image(path)), (size[1], size[0]))
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def random_images(size: tuple[int, int]) -> Tensor:
    return 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


if __name__ == '__main__':
    run_tool(main)
