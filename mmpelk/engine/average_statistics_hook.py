"""A hook for training on several CPU processes."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class AverageStatisticsHook(Hook):
    """Average the model's buffers, such as BatchNorm's running statistics, over the processes after each training iteration.

    Training on several CPU processes needs it, because SyncBN runs only on GPUs. All processes then validate, average (EMA), and save
    the same statistics.
    """

    priority = 'HIGH'  # before EMAHook

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Average the floating-point buffers."""
        all_reduce_params([buffer for buffer in runner.model.buffers() if buffer.is_floating_point()], op='mean')
