"""Fold a checkpoint for inference.

Each block then has one plain depthwise convolution, or with --keep-grid, the fast operator without norms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.apis import load_model
from mmpelk.checkpoints.writing import checkpoint_bytes
from mmpelk.deployment import fold
from mmpelk.engine.command_line import add_cfg_options, check_outputs, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', type=Path, help='folded checkpoint to write, *.pth; its config is written beside it as *.py')
    parser.add_argument(
        '--keep-grid', action='store_true', help='keep grids and stripes; fold only norms, embeddings, and branches'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.out.suffix != '.pth':
        raise InputError(f'the checkpoint to write must end in .pth, got {args.out}')
    cfg, config = read_config(args.config, args.cfg_options), args.out.with_suffix('.py')
    check_outputs([args.out, config], [args.config, args.checkpoint])
    if not str(cfg.model.get('backbone', {}).get('type', '')).endswith(('PeLK', 'GrownBackbone')):
        raise InputError(f'config {args.config} has no PeLK or GrownBackbone at model.backbone')
    if args.keep_grid and cfg.model.backbone.get('deploy') == 'plain':
        raise InputError(
            f'config {args.config} describes a checkpoint folded without grids; --keep-grid needs the trained checkpoint'
        )
    model = load_model(cfg, args.checkpoint, 'cpu')
    before = sum(p.numel() for p in model.parameters())
    difference = fold(model, args.keep_grid)
    after = sum(p.numel() for p in model.parameters())
    cfg.model.backbone.update(deploy='grid' if args.keep_grid else 'plain', init_cfg=None)
    if inner := cfg.model.backbone.get('backbone'):  # a GrownBackbone's
        inner.update(init_cfg=None, **({'pretrained': False} if 'pretrained' in inner else {}))
    cfg.pop('custom_hooks', None)  # hooks are for training
    checkpoint = dict(meta=dict(dataset_meta=model.dataset_meta), state_dict=model.state_dict())
    write_together({args.out: checkpoint_bytes(checkpoint), config: cfg.pretty_text.encode()})
    print(
        f'{args.out}: {before / 1e6:.2f} M parameters became {after / 1e6:.2f} M; features differ by {difference:.1e}; config {config}'
    )


if __name__ == '__main__':
    run_tool(main)
