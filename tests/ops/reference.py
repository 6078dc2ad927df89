"""An obviously right peripheral convolution: loops over every tap in float64, nothing shared with the package."""

import numpy as np


def expand(weight, half):
    """(C, k', k') to (C, k, k), by writing each cell out."""
    cells = list(half) + list(half)[-2::-1]
    starts = [sum(cells[:i]) for i in range(len(cells))]
    k = sum(cells)
    kernel = np.zeros((weight.shape[0], k, k))
    for a, (top, height) in enumerate(zip(starts, cells, strict=True)):
        for b, (left, width) in enumerate(zip(starts, cells, strict=True)):
            kernel[:, top : top + height, left : left + width] = weight[:, a, b][:, None, None]
    return kernel


def taps(h, w, kh, kw):
    """Each tap (i, j) that touches an h x w map: where it writes in the output, and where it reads in the input."""
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
    """(N, C, H, W) with (C, kh, kw): tap by tap, each tap one shifted multiply-add."""
    y = np.zeros(x.shape)
    for i, j, output, source in taps(*x.shape[-2:], *kernel.shape[-2:]):
        y[output] += kernel[:, i, j][None, :, None, None] * x[source]
    return y


def correlate_grads(x, kernel, grad):
    """Gradients of sum(correlate(x, kernel) * grad): (grad_x, grad_kernel), tap by tap."""
    grad_x, grad_kernel = np.zeros(x.shape), np.zeros(kernel.shape)
    for i, j, output, source in taps(*x.shape[-2:], *kernel.shape[-2:]):
        grad_x[source] += kernel[:, i, j][None, :, None, None] * grad[output]
        grad_kernel[:, i, j] = (grad[output] * x[source]).sum((0, 2, 3))
    return grad_x, grad_kernel


def collapse(kernel_grad, half):
    """The gradient of expand: sums over cells, (C, k, k) to (C, k', k')."""
    cells = list(half) + list(half)[-2::-1]
    starts = [sum(cells[:i]) for i in range(len(cells))]
    sums = np.zeros((kernel_grad.shape[0], len(cells), len(cells)))
    for a, (top, height) in enumerate(zip(starts, cells, strict=True)):
        for b, (left, width) in enumerate(zip(starts, cells, strict=True)):
            sums[:, a, b] = kernel_grad[:, top : top + height, left : left + width].sum((1, 2))
    return sums


def taps_inside(h, w, k):
    """(h, w, k, k) bool: whether a tap, seen from a position, lies inside the map."""
    inside = np.zeros((h, w, k, k), bool)
    for y in range(h):
        for x in range(w):
            for i in range(k):
                for j in range(k):
                    inside[y, x, i, j] = 0 <= y + i - k // 2 < h and 0 <= x + j - k // 2 < w
    return inside


def box_correlate(x, weight, half, up):
    """For maps too large for loops: (N, C, H, W) with a (C, k', k') weight over cells, each a box read from sums over the zero-padded
    map from its corner. Returns the output and the gradient of sum(output * up) by the weight."""
    cells = list(half) + list(half)[-2::-1]
    starts = [sum(cells[:i]) for i in range(len(cells))]
    h, w = x.shape[-2:]
    r = sum(cells) // 2
    sums = np.pad(x, ((0, 0), (0, 0), (r + 1, r), (r + 1, r))).cumsum(-1).cumsum(-2)
    y, grad = np.zeros(x.shape), np.zeros(weight.shape)
    for a, (top, height) in enumerate(zip(starts, cells, strict=True)):
        for b, (left, width) in enumerate(zip(starts, cells, strict=True)):
            box = np.zeros(x.shape)
            for row, sign in ((top + height, 1), (top, -1)):
                box += sign * sums[..., row : row + h, left + width : left + width + w]
                box -= sign * sums[..., row : row + h, left : left + w]
            y += weight[:, a, b][None, :, None, None] * box
            grad[:, a, b] = (box * up).sum((0, 2, 3))
    return y, grad
