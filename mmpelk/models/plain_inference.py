"""The condition for the two shortcuts in inference: reusing folded weights, and computing MLPs in pieces."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from mmpelk.utils.torch_compat import is_compiling


def is_plain_inference(device: torch.device) -> bool:
    """Return whether a call runs on a CPU and only computes values.

    The result is False while gradients, tangents, ``torch.func`` transforms, or graphs are recorded, and while a mode, such as that of
    fake tensors, intercepts the operators. Both shortcuts are for CPUs only: an MLP in pieces keeps its hidden layer in the CPU's
    cache, and comparing weights with earlier ones is cheap on a CPU but would synchronize a GPU.
    """
    return (
        device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )
