"""Measure how resizing the kernels of a trained classifier changes its outputs, compared with randomizing their periphery."""

from __future__ import annotations

import argparse

import torch
from mmengine.runner import Runner

from mmpelk.analysis.resizing_effect import effects_as_text, measure_effects, resized_variants
from mmpelk.apis import load_model
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.engine.preflight import check_data
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a classifier with a PeLK')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--to', nargs=4, type=int, default=[101, 69, 67, 13], metavar='K', help='new kernel sizes; default: %(default)s'
    )
    parser.add_argument('--center-size', type=int, default=7, help='center size of the new grids; default: %(default)s')
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint)
    if not isinstance(model.backbone, PeLK) or cfg.get('default_scope') != 'mmpretrain':
        raise InputError(f'config {args.config} does not describe a classifier of mmpretrain with a PeLK')
    if not cfg.get('test_dataloader'):
        raise InputError(f'config {args.config} has no test_dataloader')
    check_data(cfg, ('test',))
    torch.manual_seed(0)
    variants = resized_variants(model, args.to, args.center_size)
    loader = Runner.build_dataloader(dict(cfg.test_dataloader, num_workers=0, persistent_workers=False))
    count, effects = measure_effects(variants, loader)
    print(f'\n{count} images, kernels {[grid.kernel_size for grid in model.backbone.grids]} to {args.to}')
    print(effects_as_text(effects))


if __name__ == '__main__':
    run_tool(main)
