"""What resizing the kernels of a trained classifier does to its outputs, beside a periphery drawn at random."""

from __future__ import annotations

import argparse
import copy

import torch
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import nn

from mmpelk.apis import load_model
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.engine.preflight import check_data
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError


def resized(model: nn.Module, steps: list[dict]) -> nn.Module:
    """A copy of the model whose backbone went through these resizings."""
    model = copy.deepcopy(model)
    for step in steps:
        model.backbone.resize_kernels(**step)
    return model


def with_random_periphery(model: nn.Module, center_size: int) -> nn.Module:
    """A copy of the model whose kernels are drawn anew outside their centre."""
    model = copy.deepcopy(model)
    for stage in model.backbone.stages:
        for block in stage:
            large = block.token_mixer.large
            trained = large.weight.detach().clone()
            large.reset_parameters()
            margin = (large.grid.weight_size - center_size) // 2
            inner = (..., slice(margin, margin + center_size), slice(margin, margin + center_size))
            with torch.no_grad():
                large.weight[inner] = trained[inner]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a classifier with a PeLK')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--to', nargs=4, type=int, default=[101, 69, 67, 13], metavar='K', help='default: %(default)s')
    parser.add_argument('--center-size', type=int, default=7, help='centre of the larger grids; default: %(default)s')
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint)
    if not isinstance(model.backbone, PeLK) or cfg.get('default_scope') != 'mmpretrain':
        raise InputError(f'config {args.config} is not of a classifier with a PeLK')
    check_data(cfg, ('test',))
    grids = model.backbone.grids
    half_grids = dict(sharing_grids=[grid.half for grid in grids])
    outward = dict(sharing_grids=[grid.extended(k).half for grid, k in zip(grids, args.to, strict=True)])
    default = dict(kernel_sizes=args.to, center_size=args.center_size)
    torch.manual_seed(0)
    variants = {
        'as trained': model,
        'extended outward': resized(model, [outward]),
        **{f'{mode}: there': resized(model, [dict(default, mode=mode)]) for mode in ('extend', 'stretch')},
        **{
            f'{mode}: there and back': resized(model, [dict(default, mode=mode), dict(half_grids, mode=mode)])
            for mode in ('extend', 'stretch')
        },
        'random periphery': with_random_periphery(model, center_size=5),
    }
    loader = Runner.build_dataloader(dict(cfg.test_dataloader, num_workers=0, persistent_workers=False))
    outputs, labels = {name: [] for name in variants}, []
    with torch.no_grad():
        for batch in track_iter_progress(list(loader)):
            batch = model.data_preprocessor(batch)
            labels += [int(sample.gt_label) for sample in batch['data_samples']]
            for name, variant in variants.items():
                outputs[name].append(variant(batch['inputs'], mode='tensor').cpu())
    expected = torch.cat(outputs['as trained'])
    print(f'\n{len(labels)} images, kernels {[grid.kernel_size for grid in grids]} to {args.to}')
    print(f'{"":24} {"logits change by":>20} {"top-1":>7}')
    for name in variants:
        logits = torch.cat(outputs[name])
        change = ((logits - expected).norm() / expected.norm()).item()
        hits = (logits.argmax(1) == torch.tensor(labels)).float().mean()
        print(f'{name:24} {change:20.2e} {100 * hits:7.2f}')


if __name__ == '__main__':
    run_tool(main)
