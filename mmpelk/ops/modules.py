"""Depthwise convolutions with very large kernels as modules. They need only torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmpelk.utils.arguments import is_int

from .backends import check_backend_name
from .functional import depthwise_conv2d, peripheral_conv2d
from .sharing_grid import SharingGrid


class PeripheralConv2d(nn.Module):
    """A depthwise convolution with a k x k kernel that stores only k' x k' weights per channel (Eq. 1).

    Stride is 1, and zero padding keeps the size of the map.

    Args:
        channels: Number of convolved channels C.
        kernel_size: Odd size k of the kernel, which selects the paper's grid, or an explicit sharing grid.
        center_size: Odd size of the fine-grained center of the paper's grid.
        base: Growth of the cells outside the center of the paper's grid (m in Eq. 2).
        bias: Whether to add a learned bias of shape (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`.
        partial: Whether inputs may have more channels. The first C are then convolved, and the others pass unchanged (Eq. 4-6).

    Attributes:
        weight: (C, 1, k', k').
        bias: (C,), or None.
        grid: The sharing grid.
        half_grid: A buffer with the half grid. It stores the grid in checkpoints, because k' alone does not determine it.

    Raises:
        ValueError: If a size, ``base``, or the backend is invalid. The message names the argument.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | SharingGrid,
        center_size: int = 5,
        base: int = 2,
        bias: bool = True,
        backend: str = 'auto',
        partial: bool = False,
    ) -> None:
        super().__init__()
        check_backend_name(backend)
        self.backend = backend
        self.partial = partial
        is_grid = isinstance(kernel_size, SharingGrid)
        self.set_grid(kernel_size if is_grid else SharingGrid.peripheral(kernel_size, center_size, base))
        self.weight = nn.Parameter(torch.empty(channels, 1, self.grid.weight_size, self.grid.weight_size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.reset_parameters()

    def set_grid(self, grid: SharingGrid) -> None:
        """Set the sharing grid and its buffer. The caller replaces the weight."""
        self.grid = grid
        self.register_buffer('half_grid', torch.tensor(grid.half))

    def reset_parameters(self) -> None:
        """Initialize the weight so that each of the k'^2 cells contributes equally to the output's variance on smooth input.

        On smooth input, a cell of area A responds with A * w, so the variance of the output is the sum of (A * std)^2 over the cells.
        This sum is 1.55; it would be 2 if the normal distribution were not truncated at two standard deviations. About half of the
        variance is lost on real maps, where the kernel extends beyond the border. With one std for all weights, the outermost cells
        would amplify smooth input about 7 times (k = 51).
        """
        nn.init.trunc_normal_(self.weight)
        with torch.no_grad():
            self.weight *= 2**0.5 / (self.grid.areas().to(self.weight) * self.grid.weight_size)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C, H, W)."""
        return peripheral_conv2d(input, self.weight, self.grid, bias=self.bias, backend=self.backend, partial=self.partial)

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(k, k)."""
        return (self.grid.kernel_size,) * 2

    def extra_repr(self) -> str:
        k, size = self.grid.kernel_size, self.grid.weight_size
        return (
            f'{self.weight.shape[0]}, {k}x{k} from {size}x{size}, half_grid={list(self.grid.half)}, '
            f'bias={self.bias is not None}, backend={self.backend!r}{", partial" if self.partial else ""}'
        )


class DepthwiseConv2d(nn.Module):
    """A depthwise convolution with a full kernel. Stride is 1, and zero padding keeps the size of the map.

    Args:
        channels: Number of convolved channels C.
        kernel_size: Odd size k, or odd sizes (kh, kw).
        bias: Whether to add a learned bias of shape (C,).
        backend: 'auto', or one of :func:`mmpelk.ops.available_backends`.
        partial: Whether inputs may have more channels. The first C are then convolved, and the others pass unchanged (Eq. 4-6).

    Attributes:
        weight: (C, 1, kh, kw).
        bias: (C,), or None.

    Raises:
        ValueError: If ``kernel_size`` or the backend is invalid. The message names the argument.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int],
        bias: bool = True,
        backend: str = 'auto',
        partial: bool = False,
    ) -> None:
        super().__init__()
        check_backend_name(backend)
        self.backend = backend
        self.partial = partial
        sizes = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        if len(sizes) != 2 or any(not is_int(size) or size < 1 or size % 2 == 0 for size in sizes):
            raise ValueError(f'kernel_size must be a positive odd integer or two of them, got {kernel_size!r}')
        self.weight = nn.Parameter(torch.empty(channels, 1, *sizes))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weight so that the variance of white noise is kept."""
        nn.init.trunc_normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, C, H, W) to (N, C, H, W)."""
        return depthwise_conv2d(input, self.weight, self.bias, self.backend, self.partial)

    @property
    def kernel_size(self) -> tuple[int, int]:
        """(kh, kw)."""
        return tuple(self.weight.shape[-2:])

    def extra_repr(self) -> str:
        channels, _, kh, kw = self.weight.shape
        partial = ', partial' if self.partial else ''
        return f'{channels}, {kh}x{kw}, bias={self.bias is not None}, backend={self.backend!r}{partial}'
