"""The condition for the shortcuts of inference: reused folded weights, and MLPs in pieces."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from mmpelk.utils.torch_compat import is_compiling


def is_plain_inference(device: torch.device) -> bool:
    """Return whether a call on a CPU computes values and nothing else.

    That is not so if gradients, tangents, ``torch.func`` transforms, or graphs are recorded. Both shortcuts exist for CPUs only. A MLP
    in pieces keeps its hidden layer in the cache. Comparing weights with earlier ones costs nothing there, but stalls a GPU.
    """
    return (
        device.type == 'cpu'
        and not torch.is_grad_enabled()
        and not is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
