"""Export a trained model as ONNX (OUT.onnx, opset 20) or as a torch.export program (OUT.pt2). It is folded and normalizes its images.

Classifiers and segmentors output logits. --part backbone and --part neck output feature maps; they are the only parts of detectors that are
fixed graphs. The ONNX file is compared with torch before it is written. Its metadata contain the task, classes, and colors, which
tools/onnx_demo.py reads.
"""

from __future__ import annotations

import argparse
import copy
import io
from pathlib import Path

import torch

from mmpelk.apis import load_model
from mmpelk.deployment import Exportable, check_onnx, export, fold, metadata, to_onnx
from mmpelk.deployment.example_images import crop_size, random_images, read_tensor
from mmpelk.deployment.exporting import PARTS, check_size, task
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.models.backbones import large_kernel_backbones
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
    parser.add_argument('--dynamic', action='store_true', help='allow any batch size and any image size from 64x64')
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
        maxima = f', {agreement:.2%} of the predictions agree' if part == 'model' else ''
        print(f'onnxruntime against torch on {compared}: relative difference {difference:.1e}{maxima}')
        write_atomically(content, args.out)
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    run_tool(main)
