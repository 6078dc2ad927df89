"""Compile every variant of the Triton kernels, and print its registers, spills, and shared memory. No GPU is needed.

The exit code is 1 if a variant spills registers to memory.

With --bounds, print instead the counted work of each backend, and the resulting lower bounds of its time on an A100 and an H100.
"""

from __future__ import annotations

import argparse
import sys

from mmpelk.analysis.gpu_bounds import bound_lines
from mmpelk.analysis.gpu_page import variant_lines
from mmpelk.analysis.triton_resources import CAPABILITIES, compile_variants
from mmpelk.utils.errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--capabilities',
        type=int,
        nargs='+',
        default=CAPABILITIES,
        help='compute capabilities, such as 90 for 9.0; default: %(default)s',
    )
    parser.add_argument('--kernel-size', type=int, default=51, help="K; only 'taps' depends on it; default: %(default)s")
    parser.add_argument('--bounds', action='store_true', help='print counts and bounds instead')
    args = parser.parse_args()
    if args.bounds:
        print('\n'.join(bound_lines()))
        return
    rows = compile_variants(args.capabilities, kernel_size=args.kernel_size)
    print('\n'.join(variant_lines(rows)))
    if spilling := sum(row['stack'] > 0 for row in rows):
        sys.exit(f'{spilling} of {len(rows)} variants spill registers to memory')


if __name__ == '__main__':
    with one_line_errors():
        main()
