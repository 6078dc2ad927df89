"""Export a trained model as ONNX (OUT.onnx, opset 20) or as a torch.export program (OUT.pt2). It is folded and normalizes its images.

Classifiers and segmentors output logits. --part backbone and --part neck output feature maps; they are the only parts of detectors that are
fixed graphs. The ONNX file is compared with torch before it is written. Its metadata contain the task, classes, and colors, which
tools/onnx_demo.py reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.deployment import export_checkpoint
from mmpelk.deployment.exporting import PARTS
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config


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
    cfg = read_config(args.config, args.cfg_options)
    export_checkpoint(cfg, args.checkpoint, args.out, args.part, args.size, args.batch, args.dynamic, args.images)


if __name__ == '__main__':
    run_tool(main)
