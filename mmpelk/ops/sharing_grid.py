"""The sharing grid of peripheral convolution (PeLK, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mmpelk.utils.arguments import is_int

from . import cells


def _check_base(base: object) -> None:
    if not is_int(base) or base < 1:
        raise ValueError(f'base must be an integer of at least 1, got {base!r}')


def _growing_cells(width: int, first: int, base: int) -> list[int]:
    """Return the sizes of cells that fill ``width``, from the inside out: ``first``, then each ``base`` times the one before it.

    The remaining width becomes a cell of its own if it is at least as large as the last cell, and is added to that cell otherwise.
    """
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
    """The cell sizes that map a k' x k' weight to a k x k kernel (Eq. 1).

    Each kernel position (x, y) belongs to one cell (a, b) and has the value ``weight[a, b]``. The cell sizes are the same along both
    axes and symmetric about the center, so half of them define the grid.

    Attributes:
        half: Cell sizes from the outermost cell to the center cell, as the paper prints them: ``(9, 8, 4, 2, 1, 1, 1)`` is the
            default 51x51 grid. The last entry is the size of the center cell and is odd.

    Raises:
        ValueError: If ``half`` is empty, contains anything but positive integers, or ends with an even center cell.
    """

    half: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.half or not all(is_int(size) and size > 0 for size in self.half):
            raise ValueError(f'half must contain positive integer cell sizes, outermost first, got {self.half!r}')
        if self.half[-1] % 2 == 0:
            raise ValueError(f'the center cell (the last entry of half) must be odd, got {self.half[-1]} in {self.half!r}')
        object.__setattr__(self, 'half', tuple(int(size) for size in self.half))  # integers of NumPy become Python's

    @classmethod
    def peripheral(cls, kernel_size: int, center_size: int = 5, base: int = 2) -> SharingGrid:
        """Create the paper's grid: cells of size 1 in the center, then cells whose sizes are powers of ``base`` (Eq. 2).

        Cell sizes never decrease outward. Eq. 2 can leave a remainder at the border. It becomes a cell of its own if it is at least
        as large as the cell before it, and is added to that cell otherwise. This rule gives every grid that the paper prints.

        Args:
            kernel_size: Odd size k of the kernel.
            center_size: Odd size of the fine-grained center, at most ``kernel_size``.
            base: Growth m of the cells outside the center. 1 gives a dense kernel.

        Raises:
            ValueError: If a size is not a positive odd integer, ``center_size`` exceeds ``kernel_size``, or ``base`` is not an
                integer of at least 1.
        """
        for name, size in (('kernel_size', kernel_size), ('center_size', center_size)):
            if not is_int(size) or size < 1 or size % 2 == 0:
                raise ValueError(f'{name} must be a positive odd integer, got {size!r}')
        if center_size > kernel_size:
            raise ValueError(f'center_size must not exceed kernel_size={kernel_size}, got {center_size}')
        _check_base(base)
        outward = [1] * (center_size // 2 + 1)
        outward += _growing_cells((kernel_size - center_size) // 2, base, base)
        return cls(tuple(reversed(outward)))

    @classmethod
    def dense(cls, kernel_size: int) -> SharingGrid:
        """Create the grid without sharing: k' = k.

        Raises:
            ValueError: If ``kernel_size`` is not a positive odd integer.
        """
        return cls.peripheral(kernel_size, center_size=kernel_size)

    @classmethod
    def from_half(cls, half: Sequence[int]) -> SharingGrid:
        """Create a grid from its cell sizes, outermost cell first and center cell last, such as ``[9, 8, 4, 2, 1, 1, 1]``."""
        return cls(tuple(half))

    def extended(self, kernel_size: int, base: int = 2) -> SharingGrid:
        """Create the grid of a larger kernel: all cells stay in place, and each cell added outside is ``base`` times the one before.

        A weight with zeros in the new cells computes the same convolution as before. A remainder at the border that is smaller than
        the last new cell is added to that cell.

        Args:
            kernel_size: Odd size of the new kernel, at least the size of this one.
            base: Growth of the cells outward, at least 1.

        Raises:
            ValueError: If ``kernel_size`` is not an odd integer of at least this kernel's size, or ``base`` is not an integer of at
                least 1.
        """
        if not is_int(kernel_size) or kernel_size % 2 == 0 or kernel_size < self.kernel_size:
            raise ValueError(f'kernel_size must be odd and at least {self.kernel_size}, got {kernel_size!r}')
        _check_base(base)
        added = _growing_cells((kernel_size - self.kernel_size) // 2, self.half[0] * base, base)
        return SharingGrid((*reversed(added), *self.half))

    @property
    def cells(self) -> tuple[int, ...]:
        """The k' cell sizes along one axis."""
        return self.half + self.half[-2::-1]

    @property
    def kernel_size(self) -> int:
        """The kernel size k."""
        return sum(self.cells)

    @property
    def weight_size(self) -> int:
        """The weight size k'."""
        return 2 * len(self.half) - 1

    @property
    def edges(self) -> tuple[int, ...]:
        """The k' + 1 cell borders along one axis, from 0 to k."""
        return (0, *accumulate(self.cells))

    def areas(self) -> Tensor:
        """Return the number of kernel positions in each cell: (k', k'), float64, with the sum k * k."""
        sizes = torch.tensor(self.cells, dtype=torch.float64)
        return torch.outer(sizes, sizes)

    def expand(self, weight: Tensor) -> Tensor:
        """Expand a weight to the full kernel (Eq. 1).

        Args:
            weight: (..., k', k').

        Returns:
            (..., k, k). Each position is a copy of the weight of its cell.
        """
        self.check_weight(weight)
        return cells.expand(weight, self.cells, self.cells)

    def cell_sums(self, kernel: Tensor) -> Tensor:
        """Sum a kernel within each cell: (..., k, k) to (..., k', k'). This is the adjoint of :meth:`expand`."""
        self._check('kernel', kernel, self.kernel_size)
        return cells.cell_sums(kernel, self.cells, self.cells)

    def reduce(self, kernel: Tensor) -> Tensor:
        """Average a kernel within each cell: (..., k, k) to (..., k', k'). This is the left inverse of :meth:`expand`."""
        return self.cell_sums(kernel) / self.areas().to(kernel)

    def check_weight(self, weight: Tensor) -> None:
        """Raise ValueError unless ``weight`` has shape (..., k', k')."""
        self._check('weight', weight, self.weight_size)

    @staticmethod
    def _check(name: str, tensor: Tensor, size: int) -> None:
        if tensor.ndim < 2 or tuple(tensor.shape[-2:]) != (size, size):
            raise ValueError(f'{name} must have shape (..., {size}, {size}) for this grid, got {tuple(tensor.shape)}')
