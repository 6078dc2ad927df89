"""Check and measure mmpelk on a GPU, in parts that can be stopped and continued.

Results go to --out after each item: results.json, log.txt, and gpu.md with the tables. Run the same command again until nothing is
missing. Only torch and Triton are needed. Where OpenMMLab is installed, whole models are mmpretrain's and mmseg's. Elsewhere they are
the same backbones written with torch alone, and a light head replaces UperNet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from mmpelk.analysis.gpu_page import failures, update_documents, write_page
from mmpelk.analysis.gpu_session import read_results, run_session
from mmpelk.utils.errors import InputError, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu'), help='folder of the results; default: %(default)s')
    parser.add_argument('--minutes', type=float, default=8, help='when to stop; default: %(default)s')
    parser.add_argument('--steps', nargs='+', help='steps to run; default: all')
    parser.add_argument('--device', default='cuda', help='default: %(default)s')
    parser.add_argument('--small', action='store_true', help='use tiny sizes, to test this tool')
    parser.add_argument('--retry', action='store_true', help='repeat items that failed')
    parser.add_argument(
        '--write-docs', action='store_true', help='measure nothing; write docs/benchmarks/gpu.md and README.md from --out'
    )
    args = parser.parse_args()
    if args.minutes <= 0:
        raise InputError(f'--minutes must be positive, got {args.minutes}')
    if not args.write_docs and torch.device(args.device).type == 'cuda' and not torch.cuda.is_available():
        raise InputError(f'torch {torch.__version__} sees no GPU; run this on a machine with one')
    return args


def main() -> None:
    args = parse_args()
    if args.write_docs:
        results = read_results(args.out)
        if results['steps'] and results.get('what') != dict(device='cuda', small=False):
            raise InputError(
                f'{args.out} has results of {results.get("what")}; only those of a GPU with all sizes are documented'
            )
        update_documents(results, Path(__file__).parents[1])
        return
    missing = run_session(args.out, args.device, args.minutes, args.steps, args.small, args.retry)
    results = read_results(args.out)
    print(write_page(results, args.out))
    failed = failures(results)
    for title, items in (('failed', failed), ('missing; run the same command again', missing)):
        if items:
            print(f'\n{len(items)} {title}:\n' + '\n'.join(items[:20]))
    sys.exit(1 if failed or missing else 0)


if __name__ == '__main__':
    with one_line_errors():
        main()
