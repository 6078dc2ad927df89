"""The sharing grid of peripheral convolution (PeLK, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from . import cells


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_base(base: object) -> None:
    if not _is_int(base) or base < 1:
        raise ValueError(f'base must be an integer of at least 1, got {base!r}')


def _growing_cells(width: int, first: int, base: int) -> list[int]:
    """Cells that fill a width outward: ``first``, then growing by ``base``; what is left over makes a cell of its own if it is at
    least as large as the one before it, and joins that one otherwise."""
    cells = []
    while first <= width:
        cells.append(first)
        width -= first
        first *= base
    if width and (not cells or width >= cells[-1]):
        cells.append(width)
    elif width:
        cells[-1] += width
    return cells


@dataclass(frozen=True)
class SharingGrid:
    """Cell sizes that tie a k' x k' weight to a k x k kernel (Eq. 1).

    The kernel position (x, y) lies in cell (a, b) and reads ``weight[a, b]``. The same cell sizes run along both axes and are
    symmetric about the centre, so half of them describe the grid.

    Attributes:
        half: Cell sizes from the outermost to the centre, as the paper prints them: ``(9, 8, 4, 2, 1, 1, 1)`` is the default
            51x51 grid. The last entry is the single centre cell and is odd.

    Raises:
        ValueError: If ``half`` is empty, holds anything but positive integers, or ends in an even centre cell.
    """

    half: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.half or not all(_is_int(size) and size > 0 for size in self.half):
            raise ValueError(f'a sharing grid needs positive integer cell sizes, outermost first, got {self.half!r}')
        if self.half[-1] % 2 == 0:
            raise ValueError(f'the centre cell (last of the half grid) must be odd, got {self.half[-1]} in {self.half!r}')

    @classmethod
    def peripheral(cls, kernel_size: int, center_size: int = 5, base: int = 2) -> SharingGrid:
        """The paper's grid: single cells in the centre, then cells that grow as powers of ``base`` (Eq. 2).

        Cells never shrink outward. What Eq. 2 leaves over at the rim becomes a cell of its own if it is at least as large as
        the cell before it, and joins that cell otherwise; this rule gives every grid that the paper prints.

        Args:
            kernel_size: Odd size k of the kernel.
            center_size: Odd size of the fine-grained centre, at most ``kernel_size``.
            base: Growth m of the cells outside the centre; 1 gives a dense kernel.

        Raises:
            ValueError: If a size is even or not positive, the centre exceeds the kernel, or ``base`` is below 1.
        """
        for name, size in (('kernel_size', kernel_size), ('center_size', center_size)):
            if not _is_int(size) or size < 1 or size % 2 == 0:
                raise ValueError(f'{name} must be a positive odd integer, got {size!r}')
        if center_size > kernel_size:
            raise ValueError(f'center_size must not exceed kernel_size={kernel_size}, got {center_size}')
        _check_base(base)
        outward = [1] * (center_size // 2 + 1)
        outward += _growing_cells((kernel_size - center_size) // 2, base, base)
        return cls(tuple(reversed(outward)))

    @classmethod
    def dense(cls, kernel_size: int) -> SharingGrid:
        """The grid without sharing: k' = k.

        Raises:
            ValueError: If ``kernel_size`` is not a positive odd integer.
        """
        return cls.peripheral(kernel_size, center_size=kernel_size)

    @classmethod
    def from_half(cls, half: Sequence[int]) -> SharingGrid:
        """An explicit grid, outermost cell first and centre last, such as ``[9, 8, 4, 2, 1, 1, 1]``."""
        return cls(tuple(half))

    def extended(self, kernel_size: int, base: int = 2) -> SharingGrid:
        """A grid for a larger kernel that leaves every cell in place and adds cells outside, each ``base`` times the one before it.

        A kernel carried there with zeros in the new cells computes what it did. What is left at the rim joins the last new cell if
        it is smaller than that.

        Args:
            kernel_size: Odd size of the new kernel, at least this one's.
            base: Growth of the cells outward, at least 1.

        Raises:
            ValueError: If ``kernel_size`` is even or smaller than this kernel, or ``base`` is below 1.
        """
        if not _is_int(kernel_size) or kernel_size % 2 == 0 or kernel_size < self.kernel_size:
            raise ValueError(f'kernel_size must be odd and at least {self.kernel_size}, got {kernel_size!r}')
        _check_base(base)
        added = _growing_cells((kernel_size - self.kernel_size) // 2, self.half[0] * base, base)
        return SharingGrid((*reversed(added), *self.half))

    @property
    def cells(self) -> tuple[int, ...]:
        """All k' cell sizes along one axis."""
        return self.half + self.half[-2::-1]

    @property
    def kernel_size(self) -> int:
        """k, the size of the kernel that the grid spans."""
        return sum(self.cells)

    @property
    def weight_size(self) -> int:
        """k', the size of the weight that the grid shares."""
        return 2 * len(self.half) - 1

    @property
    def edges(self) -> tuple[int, ...]:
        """The k' + 1 cell borders along one axis, from 0 to k."""
        return (0, *accumulate(self.cells))

    def areas(self) -> Tensor:
        """Positions per cell, a (k', k') float64 tensor that sums to k * k."""
        sizes = torch.tensor(self.cells, dtype=torch.float64)
        return torch.outer(sizes, sizes)

    def expand(self, weight: Tensor) -> Tensor:
        """Spread a weight over its cells (Eq. 1).

        Args:
            weight: (..., k', k').

        Returns:
            (..., k, k), each position a copy of its cell's weight.
        """
        self.check_weight(weight)
        return cells.expand(weight, self.cells, self.cells)

    def cell_sums(self, kernel: Tensor) -> Tensor:
        """Sum a kernel within each cell: (..., k, k) -> (..., k', k'). The adjoint of :meth:`expand`."""
        self._check('kernel', kernel, self.kernel_size)
        return cells.cell_sums(kernel, self.cells, self.cells)

    def reduce(self, kernel: Tensor) -> Tensor:
        """Cell means: (..., k, k) -> (..., k', k'), the left inverse of :meth:`expand`."""
        return self.cell_sums(kernel) / self.areas().to(kernel)

    def check_weight(self, weight: Tensor) -> None:
        """Raise ValueError unless ``weight`` is (..., k', k')."""
        self._check('weight', weight, self.weight_size)

    @staticmethod
    def _check(name: str, tensor: Tensor, size: int) -> None:
        if tensor.ndim < 2 or tuple(tensor.shape[-2:]) != (size, size):
            raise ValueError(f'{name} must have shape (..., {size}, {size}) for this grid, got {tuple(tensor.shape)}')
