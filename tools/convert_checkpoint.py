"""Convert a ConvNeXt or SLaK checkpoint to the backbone of a config, which is a PeLK or a GrownBackbone.

The weights may have the names of the official ConvNeXt, ConvNeXt V2, DINOv3, or SLaK, or of timm, torchvision, transformers, or
mmpretrain. Heads are kept if the config's model has the same ones. Every weight of the foreign backbone must be used, and no weight of
the config's backbone may be missing, except for the names given with --allow-unused and --allow-missing.
"""

from __future__ import annotations

import argparse

from mmpelk.checkpoints.converting import convert_checkpoint
from mmpelk.engine.command_line import add_cfg_options, check_outputs, run_tool
from mmpelk.engine.config import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the model that will load the result')
    parser.add_argument('source', help='checkpoint to convert, .pth or .safetensors')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument('--ema', action='store_true', help="convert 'model_ema' of an official checkpoint")
    parser.add_argument(
        '--allow-missing',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="names in the backbone that the checkpoint may lack, such as 'norm[012].*'; they keep their initialization",
    )
    parser.add_argument(
        '--allow-unused',
        nargs='+',
        default=[],
        metavar='PATTERN',
        help="names in the checkpoint that may be dropped, such as 'norm.*'",
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    check_outputs([args.out], [args.config, args.source])
    cfg = read_config(args.config, args.cfg_options)
    convert_checkpoint(cfg, args.source, args.out, args.ema, args.allow_missing, args.allow_unused)


if __name__ == '__main__':
    run_tool(main)
