"""A simple reference for peripheral convolution: loops over all taps in float64. It shares no code with the package."""

import numpy as np


def cell_slices(half):
    """Return the slice of the kernel that each cell covers, along one axis."""
    cells = list(half) + list(half)[-2::-1]
    starts = [sum(cells[:i]) for i in range(len(cells))]
    return [slice(start, start + size) for start, size in zip(starts, cells, strict=True)]


def expand(weight, half):
    """Copy each weight to its cell: (C, k', k') to (C, k, k)."""
    slices = cell_slices(half)
    k = slices[-1].stop
    kernel = np.zeros((weight.shape[0], k, k))
    for a, rows in enumerate(slices):
        for b, columns in enumerate(slices):
            kernel[:, rows, columns] = weight[:, a, b][:, None, None]
    return kernel


def collapse(kernel_grad, half):
    """Compute the gradient of :func:`expand`, the sums over cells: (C, k, k) to (C, k', k')."""
    slices = cell_slices(half)
    sums = np.zeros((kernel_grad.shape[0], len(slices), len(slices)))
    for a, rows in enumerate(slices):
        for b, columns in enumerate(slices):
            sums[:, a, b] = kernel_grad[:, rows, columns].sum((1, 2))
    return sums


def taps(h, w, kh, kw):
    """Yield each tap (i, j) that touches an h x w map, with the part of the output it writes and the part of the input it reads."""
    for i in range(kh):
        dy = i - kh // 2
        rows = range(max(0, -dy), min(h, h - dy))
        for j in range(kw):
            dx = j - kw // 2
            columns = range(max(0, -dx), min(w, w - dx))
            if len(rows) and len(columns):
                output = np.s_[:, :, rows.start : rows.stop, columns.start : columns.stop]
                yield i, j, output, np.s_[:, :, rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]


def correlate(x, kernel):
    """Correlate (N, C, H, W) with (C, kh, kw), one shifted multiply-add per tap."""
    y = np.zeros(x.shape)
    for i, j, output, source in taps(*x.shape[-2:], *kernel.shape[-2:]):
        y[output] += kernel[:, i, j][None, :, None, None] * x[source]
    return y


def correlate_grads(x, kernel, grad):
    """Compute the gradients of sum(correlate(x, kernel) * grad), tap by tap: (grad_x, grad_kernel)."""
    grad_x, grad_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j, output, source in taps(*x.shape[-2:], *kernel.shape[-2:]):
        grad_x[source] += kernel[:, i, j][None, :, None, None] * grad[output]
        grad_kernel[:, i, j] = (grad[output] * x[source]).sum((0, 2, 3))
    return grad_x, grad_kernel


def taps_inside(h, w, k):
    """Return whether each tap lies inside the map, for each position: (h, w, k, k) bool."""
    inside = np.zeros((h, w, k, k), bool)
    for y in range(h):
        for x in range(w):
            for i in range(k):
                for j in range(k):
                    inside[y, x, i, j] = 0 <= y + i - k // 2 < h and 0 <= x + j - k // 2 < w
    return inside


def box_correlate(x, weight, half, up):
    """Correlate (N, C, H, W) with a (C, k', k') weight over cells, on maps that are too large for loops over taps.

    Each cell is a box filter, read from the cumulative sums of the zero-padded map. Returns the output and the gradient of
    sum(output * up) with respect to the weight.
    """
    slices = cell_slices(half)
    h, w = x.shape[-2:]
    r = slices[-1].stop // 2
    sums = np.pad(x, ((0, 0), (0, 0), (r + 1, r), (r + 1, r))).cumsum(-1).cumsum(-2)
    y, grad = np.zeros(x.shape), np.zeros(weight.shape)
    for a, rows in enumerate(slices):
        for b, columns in enumerate(slices):
            box = np.zeros(x.shape)
            for row, sign in ((rows.stop, 1), (rows.start, -1)):
                box += sign * sums[..., row : row + h, columns.stop : columns.stop + w]
                box -= sign * sums[..., row : row + h, columns.start : columns.start + w]
            y += weight[:, a, b][None, :, None, None] * box
            grad[:, a, b] = (box * up).sum((0, 2, 3))
    return y, grad
