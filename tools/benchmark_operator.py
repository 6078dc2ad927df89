"""Time the operator's backends against each other, interleaved in one process: medians and ratios to the dense convolution."""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from mmpelk.errors import InputError, one_line_errors
from mmpelk.ops import SharingGrid, available_backends, peripheral_conv2d


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shape', type=int, nargs=4, default=(1, 46, 128, 128), metavar=('N', 'C', 'H', 'W'))
    parser.add_argument('--kernels', type=int, nargs='+', default=(51, 101), help='kernel sizes; default: 51 101')
    parser.add_argument('--training', action='store_true', help='time forward and backward together')
    parser.add_argument(
        '--repeats', type=int, default=5, help='timed calls of each backend after one to warm up; default: %(default)s'
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    if min(args.shape) < 1 or args.repeats < 1:
        raise InputError(f'--shape and --repeats must be positive, got {args.shape} and {args.repeats}')
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else f'{platform.processor() or platform.machine()} CPU'
    print(f'{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, (N, C, H, W) = {tuple(args.shape)}')
    print('forward and backward' if args.training else 'forward')
    for kernel_size in args.kernels:
        try:
            grid = SharingGrid.peripheral(kernel_size, 7 if kernel_size > 51 else 5)
        except ValueError as error:
            raise InputError(str(error)) from error
        x = torch.randn(*args.shape, device=device, requires_grad=args.training)
        weight = torch.randn(args.shape[1], 1, grid.weight_size, grid.weight_size, device=device, requires_grad=args.training)

        def call(backend: str, x=x, weight=weight, grid=grid) -> None:
            output = peripheral_conv2d(x, weight, grid, backend=backend)
            if args.training:
                output.sum().backward()

        times: dict[str, list[float]] = {backend: [] for backend in available_backends(device)}
        for repeat in range(args.repeats + 1):
            for backend, measured in times.items():
                took = milliseconds(lambda backend=backend: call(backend), device)
                if repeat > 0:
                    measured.append(took)
        medians = {backend: statistics.median(measured) for backend, measured in times.items()}
        for backend, median in medians.items():
            print(
                f'kernel {kernel_size:3d}  {backend:6s} {median:10.2f} ms   {medians["dense"] / median:8.1f} x faster than dense'
            )


if __name__ == '__main__':
    with one_line_errors():
        main()
