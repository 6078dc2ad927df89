"""Convert a ConvNeXt, SLaK, or RepLKNet checkpoint (official, from timm, or from mmpretrain) to the PeLK of a config."""

from __future__ import annotations

import argparse

from mmengine.registry import MODELS, init_default_scope

from mmpelk.checkpoints import read_checkpoint, write_checkpoint
from mmpelk.checkpoints.foreign_names import convert, format_table, matched_share, source_weights
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError, build_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the model that will load the result')
    parser.add_argument('source', help='checkpoint to convert, .pth or .safetensors')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument('--ema', action='store_true', help="convert 'model_ema' of an official checkpoint")
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    checkpoint = read_checkpoint(args.source)
    if args.ema and 'model_ema' not in checkpoint:
        raise InputError(f"checkpoint {args.source} has no 'model_ema'; its keys are {', '.join(list(checkpoint)[:8])}")
    with build_errors():
        model = MODELS.build(cfg.model)
    fits, rows = convert(source_weights(checkpoint, args.ema), model)
    print(format_table(rows))
    share = matched_share(fits, model)
    if share < 0.5:
        raise InputError(
            f'checkpoint {args.source} fits {share:.0%} of the backbone in {args.config}, but at least half is needed; '
            'the table above lists the missing and the unused weights. Nothing was written'
        )
    write_checkpoint(dict(state_dict=fits, meta=dict(converted_from=str(args.source))), args.out)
    print(f'{len(fits)} tensors, {share:.0%} of the backbone, in {args.out}')


if __name__ == '__main__':
    run_tool(main)
