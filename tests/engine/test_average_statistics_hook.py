"""What is averaged, and when. tests/tools/test_distributed.py trains with BatchNorm on two processes."""

from types import SimpleNamespace

from mmengine.hooks import EMAHook
from mmengine.runner.priority import get_priority
from torch import nn

from mmpelk.engine import average_statistics_hook
from mmpelk.engine.average_statistics_hook import AverageStatisticsHook


def test_floating_point_buffers_are_averaged_before_ema(monkeypatch):
    averaged = []
    monkeypatch.setattr(average_statistics_hook, 'all_reduce_params', lambda tensors, op: averaged.append((tensors, op)))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    AverageStatisticsHook().after_train_iter(SimpleNamespace(model=model), 0)
    ((tensors, op),) = averaged
    assert op == 'mean' and len(tensors) == 2
    assert tensors[0] is model[1].running_mean and tensors[1] is model[1].running_var  # not the number of batches
    assert get_priority(AverageStatisticsHook.priority) < get_priority(EMAHook.priority)
