"""Convert a ConvNeXt or SLaK checkpoint to the backbone of a config, which is a PeLK or a GrownBackbone.

The weights may have the names of the official ConvNeXt, ConvNeXt V2, DINOv3, or SLaK, or of timm, torchvision, transformers, or
mmpretrain. Heads are kept if the config's model has the same ones. Every weight of the foreign backbone must be used, and no weight of
the config's backbone may be missing, except for the names given with --allow-unused and --allow-missing.
"""

from __future__ import annotations

import argparse

from mmengine.registry import MODELS, init_default_scope

from mmpelk.analysis.resizing_effect import measure_feature_change
from mmpelk.checkpoints import read_checkpoint, write_checkpoint
from mmpelk.checkpoints.foreign_names import convert, format_table, source_weights
from mmpelk.engine.command_line import add_cfg_options, check_outputs, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError, build_errors


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
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    checkpoint = read_checkpoint(args.source)
    if args.ema and 'model_ema' not in checkpoint:
        raise InputError(f"checkpoint {args.source} has no 'model_ema'; its keys are {', '.join(list(checkpoint)[:8])}")
    with build_errors():
        model = MODELS.build(cfg.model)
    conversion = convert(source_weights(checkpoint, args.ema), model)
    print(format_table(conversion.rows()))
    conversion.check(args.source, args.allow_missing, args.allow_unused)
    in_backbone = {
        name.removeprefix('backbone.'): value for name, value in conversion.weights.items() if name.startswith('backbone.')
    }
    change = measure_feature_change(model.backbone, in_backbone)
    if change is not None:
        print(change)
    write_checkpoint(dict(state_dict=conversion.weights, meta=dict(converted_from=str(args.source))), args.out)
    print(f'{len(conversion.weights)} tensors, {len(in_backbone)} of them in the backbone, written to {args.out}')


if __name__ == '__main__':
    run_tool(main)
