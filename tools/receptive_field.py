"""Draw the effective receptive field of a config's backbone (Fig. 4) and print the high-contribution area ratios."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mmcv
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import track_iter_progress
from torch import nn

from mmpelk.analysis.receptive_field import SHARES, area_ratios, contribution_map, heat_map, load_images
from mmpelk.apis.images import images_in
from mmpelk.checkpoints import check_fit, check_prefix, model_weights, read_checkpoint
from mmpelk.datasets.digit_scenes import load_photos
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


def build_backbone(cfg: Config, checkpoint: str | None) -> nn.Module:
    """The config's backbone, with a map as its last output, and a checkpoint's weights."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if 'gap_before_final_norm' in cfg.model.backbone or cfg.model.backbone.type.endswith('ConvNeXt'):
        cfg.model.backbone.gap_before_final_norm = False
    backbone = MODELS.build(cfg.model.backbone)
    if checkpoint:
        weights = read_checkpoint(checkpoint)
        check_prefix(weights, 'backbone.', checkpoint)
        weights = model_weights(weights, 'backbone.')
        check_fit(weights, backbone, checkpoint)
        backbone.load_state_dict(weights)
    else:
        backbone.init_weights()
    return backbone.to(get_device()).eval()


def find_images(folder: Path, limit: int) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f'image folder {folder} does not exist')
    return images_in(folder)[:limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of mmseg, mmdet or mmpretrain')
    parser.add_argument('checkpoint', nargs='?', help='its checkpoint; without one, the backbone is as initialised')
    parser.add_argument('--images', type=Path, help="folder of images; default: scikit-learn's two photographs")
    parser.add_argument('--limit', type=int, default=50, help='at most so many images; default: %(default)s')
    parser.add_argument('--size', type=int, default=1024, help='images are resized to this square; default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('receptive_field.png'), help='PNG to write; default: %(default)s')
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.size < 64:
        raise InputError(f'--size must be at least 64, got {args.size}')
    if args.out.suffix != '.png':
        raise InputError(f'--out must end in .png, got {args.out}')
    if args.limit < 1:
        raise InputError(f'--limit must be at least 1, got {args.limit}')
    cfg = read_config(args.config, args.cfg_options)
    backbone = build_backbone(cfg, args.checkpoint)
    norm = cfg.model.data_preprocessor
    images = find_images(args.images, args.limit) if args.images else load_photos()
    loaded = (image.to(get_device()) for image in load_images(track_iter_progress(images), args.size, norm.mean, norm.std))
    contribution = contribution_map(backbone, loaded)
    ratios = area_ratios(contribution)
    mmcv.imwrite(mmcv.rgb2bgr(heat_map(contribution)), str(args.out))
    args.out.with_suffix('.json').write_text(json.dumps({str(share): ratio for share, ratio in ratios.items()}))
    print(f'\n{args.config}, {args.checkpoint or "as initialised"}, {len(images)} images of {args.size}x{args.size}')
    print('area of the smallest centred square that holds a share of the contribution, over the image:')
    print('  '.join(f'{share:.0%}: {ratios[share]:.1%}' for share in SHARES))
    print(f'heat map in {args.out}')


if __name__ == '__main__':
    run_tool(main)
