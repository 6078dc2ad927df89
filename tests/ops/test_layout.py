import pytest
import torch

from mmpelk.ops.layout import memory_format


@pytest.mark.parametrize(
    'tensor, expected',
    [
        (torch.empty(2, 3, 4, 5), torch.contiguous_format),
        (torch.empty(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.channels_last),
        (
            torch.empty(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)[:, :3],
            torch.channels_last,
        ),  # a slice of channels
        (torch.empty(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)[:, :1], torch.contiguous_format),  # one channel
        (torch.empty(2, 6, 4, 5)[:, :3], torch.contiguous_format),
        (torch.empty(2, 3, 5, 4).mT, torch.contiguous_format),
        (torch.empty(2, 1, 4, 5).contiguous(memory_format=torch.channels_last), torch.contiguous_format),  # both formats fit
        (torch.empty(2, 3, 1, 1).contiguous(memory_format=torch.channels_last), torch.contiguous_format),  # both formats fit
    ],
)
def test_memory_format(tensor, expected):
    assert memory_format(tensor) == expected
