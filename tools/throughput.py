"""Images a second of PeLK-T, PeLK-101-T, SLaK-T and ConvNeXt-T, interleaved in one process, beside the paper's ratios (Table 8)."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import ProgressBar

from mmpelk.analysis.paper import TABLE8
from mmpelk.analysis.throughput import throughput
from mmpelk.errors import InputError, one_line_errors
from mmpelk.launch import read_config
from mmpelk.models import PeLK

CONFIGS = Path(__file__).parents[1] / 'configs'
MODELS_OF_TABLE8 = {
    'SLaK-T': 'baselines/slak_t_in1k.py',
    'PeLK-T': 'pelk_t_in1k.py',
    'PeLK-101-T': 'ablations/table7_t101_in1k_120e.py',
    'ConvNeXt-T': 'baselines/convnext_t_in1k.py',
}
PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batch', type=int, default=8, help='images at once; default: %(default)s')
    parser.add_argument('--size', type=int, default=224, help='height and width; default: %(default)s')
    parser.add_argument('--precision', choices=PRECISIONS, default='float32', help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=10, help='timed rounds; default: %(default)s')
    parser.add_argument('--device', default=get_device(), help='default: %(default)s')
    parser.add_argument('--deploy', action='store_true', help='with branches, norms and stripes folded into one kernel a block')
    parser.add_argument('--out', type=Path, help='JSON to write')
    args = parser.parse_args()
    for name in ('batch', 'repeats'):
        if getattr(args, name) < 1:
            raise InputError(f'--{name} must be at least 1, got {getattr(args, name)}')
    if args.size < 32:
        raise InputError(f'--size must be at least 32, got {args.size}')
    init_default_scope('mmpretrain')
    models = {}
    for name, config in MODELS_OF_TABLE8.items():
        models[name] = MODELS.build(read_config(str(CONFIGS / config)).model)
        if args.deploy and isinstance(models[name].backbone, PeLK):
            models[name].backbone.switch_to_deploy()
    bar = ProgressBar(args.repeats + 2)
    measured = throughput(
        models, args.batch, args.size, args.device, PRECISIONS[args.precision], args.repeats, lambda done, total: bar.update()
    )
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith('cuda')
        else f'{platform.machine()} CPU, {torch.get_num_threads()} threads'
    )
    print(
        f'\n{device}, torch {torch.__version__}, {args.precision}, {args.size} px, batch {args.batch}, {args.repeats} rounds, medians'
    )
    print(f'{"":12} {"images/s":>9} {"slowest/fastest":>16} {"over SLaK-T":>12} {"paper, A100":>12}')
    for name, result in measured.items():
        ratio = result.images_per_second / measured['SLaK-T'].images_per_second
        printed = f'{TABLE8[name] / TABLE8["SLaK-T"]:12.2f}' if name in TABLE8 else f'{"-":>12}'
        print(f'{name:12} {result.images_per_second:9.2f} {result.spread:16.2f} {ratio:12.2f} {printed}')
    if args.out:
        settings = dict(device=device, torch=torch.__version__, precision=args.precision, size=args.size, batch=args.batch)
        results = {name: result.__dict__ for name, result in measured.items()}
        args.out.write_text(json.dumps(dict(settings, repeats=args.repeats, results=results), indent=1))


if __name__ == '__main__':
    with one_line_errors():
        main()
