"""Functions that hide the differences between torch 2.1 and newer versions. They need only torch."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch.autograd import Function, forward_ad
from torch.optim import Optimizer
from torch.utils import flop_counter
from torch.utils.hooks import RemovableHandle

TORCH = tuple(int(number) for number in torch.__version__.split('.')[:2])  # (2, 13)

# torch 2.3 moved this function. torch.compile evaluates both versions as True.
is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, 'is_compiling') else torch._utils.is_compiling
# torch 2.4 and newer register operators with functions. In older versions, registrations last only as long as their library object.
_LIBRARIES: dict[str, torch.library.Library] = {}


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Return the dtype that autocast uses on a device type, or None if autocast is disabled there."""
    if TORCH >= (2, 4):
        if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return None
    if device_type == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    if device_type == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return None


def is_differentiated(*args: Any) -> bool:
    """Return whether autograd or forward mode follows any tensor among the arguments, or a transform of ``torch.func`` is active.

    torch before 2.4 cannot compile functions that call this, so there it always returns True.
    """
    if TORCH < (2, 4) or torch._C._are_functorch_transforms_active():
        return True
    return needs_grad(*args) or has_tangent(*args)


def needs_grad(*args: Any) -> bool:
    """Return whether autograd follows any tensor among the arguments."""
    return torch.is_grad_enabled() and any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args)


def has_tangent(*args: Any) -> bool:
    """Return whether forward mode follows any tensor among the arguments."""
    if forward_ad._current_level < 0:  # outside of forward mode
        return False
    return any(isinstance(arg, torch.Tensor) and forward_ad.unpack_dual(arg).tangent is not None for arg in args)


def has_bfloat16_units() -> bool:
    """Return whether the current GPU computes in bfloat16 without emulation. torch before 2.5 has no emulation."""
    try:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:
        return torch.cuda.is_bf16_supported()


def define_operator(name: str, schema: str, tags: Sequence[torch.Tag]) -> None:
    """Define the operator ``name``, such as 'mmpelk::depthwise_conv2d', with a schema such as '(Tensor x) -> Tensor'.

    torch before 2.4 has no tags for operators from Python.
    """
    if TORCH >= (2, 4):
        torch.library.define(name, schema, tags=tags)
    else:
        _library(name).define(f'{name.partition("::")[2]}{schema}')


def implement_operator(name: str, function: Callable, fake: Callable) -> None:
    """Register the function that computes an operator on all devices, and the one that creates its output without values."""
    _implement(name, function, 'CompositeExplicitAutograd')
    if TORCH >= (2, 4):
        torch.library.register_fake(name, fake)
    else:
        _implement(name, fake, 'Meta')


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """Register the gradients of an operator, like :func:`torch.library.register_autograd`, for direct calls and compiled graphs.

    With torch's function, a call with a tangent of forward mode would lose it silently. Here it is an error.
    """
    operator = _operator(name).default

    def forward(*args: Any) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    methods = dict(forward=forward, setup_context=setup_context, backward=backward)
    recorded = type('Recorded', (Function,), {key: staticmethod(method) for key, method in methods.items()})

    def call(*args: Any) -> torch.Tensor:
        if has_tangent(*args):
            raise NotImplementedError(
                f'{name} has no derivatives in forward mode in compiled graphs and direct calls; call the function of mmpelk.ops '
                'without torch.compile'
            )
        return recorded.apply(*args) if needs_grad(*args) else forward(*args)

    _implement(name, call, 'Autograd')


def register_flop_formula(name: str, formula: Callable) -> None:
    """Let torch's FLOP counter count an operator. The formula takes shapes in place of tensors."""
    if hasattr(flop_counter, 'register_flop_formula'):
        flop_counter.register_flop_formula(_operator(name))(formula)
    else:
        flop_counter.flop_mapping[_operator(name)] = formula


def hook_steps(optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> RemovableHandle:
    """Call one function before and another after each step of an optimizer, until the handle's ``remove()`` is called.

    torch's own step hooks are not used, because ``torch.compile`` disables those of every optimizer in torch 2.1.
    """
    functions: dict[int, tuple[Callable[[], None], Callable[[], None]]] = OrderedDict()
    handle = RemovableHandle(functions)
    functions[handle.id] = before, after
    inner = optimizer.step

    @functools.wraps(inner)  # keeps the marks of learning rate schedulers
    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        for before, _ in functions.values():
            before()
        result = inner(*args, **kwargs)
        for _, after in functions.values():
            after()
        return result

    del step.__wrapped__  # its signature has no self
    optimizer.step = MethodType(step, optimizer)
    return handle


def _operator(name: str) -> torch._ops.OpOverloadPacket:
    namespace, _, operator = name.partition('::')
    return getattr(getattr(torch.ops, namespace), operator)


def _implement(name: str, function: Callable, key: str) -> None:
    """Register the function of an operator for a dispatch key."""
    if TORCH >= (2, 4):
        torch.library.impl(name, key, function)
    else:
        _library(name).impl(name, function, key)


def _library(name: str) -> torch.library.Library:
    namespace = name.partition('::')[0]
    if namespace not in _LIBRARIES:
        _LIBRARIES[namespace] = torch.library.Library(namespace, 'DEF')
    return _LIBRARIES[namespace]
