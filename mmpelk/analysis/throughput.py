"""Images a second of several models, measured side by side (Table 8)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Throughput:
    """Of one model.

    Attributes:
        images_per_second: By the median time.
        seconds: Median time of a batch.
        spread: Slowest over fastest batch.
    """

    images_per_second: float
    seconds: float
    spread: float


def throughput(
    models: Mapping[str, nn.Module],
    batch: int,
    size: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    repeats: int = 10,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Throughput]:
    """Measure inference, one batch of each model in turn, so that what else the machine does hits all alike.

    Args:
        models: By name; called with (batch, 3, size, size).
        batch: Images at once.
        size: Height and width.
        device: 'cpu', 'cuda', ...
        dtype: Of weights and images.
        repeats: Timed rounds; two more come first, to warm up.
        progress: Called after each round with the rounds done and their number.
    """
    images = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
    models = {name: model.to(device, dtype).eval() for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    warm_up = 2
    with torch.inference_mode():
        for turn in range(repeats + warm_up):
            for name, model in models.items():
                _synchronize(device)
                start = time.perf_counter()
                model(images)
                _synchronize(device)
                if turn >= warm_up:
                    times[name].append(time.perf_counter() - start)
            progress(turn + 1, repeats + warm_up)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: Throughput(batch / medians[name], medians[name], max(values) / min(values)) for name, values in times.items()}


def _synchronize(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)
