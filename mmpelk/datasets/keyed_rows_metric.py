"""The metric of keyed rows. Configs that use it import this module with ``custom_imports``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

IGNORED = 255


@METRICS.register_module()
class AccuracyOverDistance(BaseMetric):
    """The percentage of labeled pixels that are correct, by distance from the left edge of the image.

    The results are ``glyphs/left`` and ``glyphs/right`` for the halves of the image, ``glyphs/all``, and ``glyphs/part_1`` to
    ``glyphs/part_n`` for n equally wide parts from left to right. A part without a labeled pixel is NaN.

    Args:
        parts (int): Even number n of parts. Defaults to 8.
        **kwargs: The arguments of :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: If ``parts`` is not a positive even number.
    """

    default_prefix = 'glyphs'

    def __init__(self, parts: int = 8, **kwargs) -> None:
        super().__init__(**kwargs)
        if parts < 2 or parts % 2:
            raise ValueError(f'parts must be a positive even number, got {parts}')
        self.parts = parts

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the labeled and the correct pixels of each part. The label maps are (1, H, W)."""
        for sample in data_samples:
            predicted = sample['pred_sem_seg']['data'][0].cpu()
            truth = sample['gt_sem_seg']['data'][0].cpu()
            width = truth.shape[1]
            part = (torch.arange(width) * self.parts // width).expand_as(truth)
            counts = (part[mask].bincount(minlength=self.parts) for mask in (truth != IGNORED, predicted == truth))
            self.results.append(torch.stack(tuple(counts)))

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Return the accuracies in percent. Each entry of ``results`` is (2, parts): the labeled and the correct pixels."""
        labeled, correct = sum(results).double()
        half = self.parts // 2

        def accuracy(part: slice) -> float:
            return float(100 * correct[part].sum() / labeled[part].sum())

        metrics = dict(left=accuracy(slice(half)), right=accuracy(slice(half, None)), all=accuracy(slice(None)))
        return metrics | {f'part_{i + 1}': accuracy(slice(i, i + 1)) for i in range(self.parts)}
