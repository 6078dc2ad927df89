"""Triton kernels for a depthwise convolution whose kernel is constant over cells, as one small matrix product per row of cells.

A row of cells of height t adds a matrix product to the outputs of a block: the means over t rows of the map, times a Toeplitz matrix of
the taps of this row. The products run on the tensor cores and are summed in float32. They use means instead of sums, so that float16
cannot overflow where its input did not. The cells of a kernel determine only loop bounds, so one compilation works for all grids.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row_means(x, planes, rows, valid, columns, top, size, height, width):
    """Average ``size`` rows of the map, the first ``top`` rows below each row: (rows, columns). The map is zero outside."""
    total = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    inside = (columns < width)[None, :]
    for offset in range(size):
        source = rows + top + offset
        mask = (valid & (source >= 0) & (source < height))[:, None] & inside
        total += tl.load(x + (planes + source * width)[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    return (total * (1.0 / size)).to(x.dtype.element_ty)


@triton.jit
def _add_product(total, left, right, PRECISION: tl.constexpr):
    """Return total + left @ right in float32."""
    if PRECISION == 'interpreted':  # the interpreter would multiply the bits of bfloat16 as integers
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    else:
        return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=['images', 'channels', 'height', 'row_cells', 'taps', 'size_class'])
def correlate(
    x, weight, bias, y, tops, sizes, images, channels, height, width, row_cells, taps, size_class,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the output of the convolution.

    y[n, c, i, j] = bias[c] + sum over cells a and taps k of weight[c, a, k] * mean of x[n, c, i + tops[a] ..., j + k - taps // 2].
    A program computes COLUMNS columns of ROWS rows, which run through all images of one channel. It reads SOURCES columns at a time.

    Args:
        x, y: (images, channels, height, width).
        weight: (channels, row_cells, taps), multiplied by the heights of the cells.
        bias: (channels,), float32.
        tops, sizes: (row_cells,), int32. The first row of each row of cells, relative to the output's row, and its height.
        size_class: A key for the autotuner's cache. The kernel does not use it.
    """
    column_blocks, row_blocks = tl.cdiv(width, COLUMNS), tl.cdiv(images * height, ROWS)
    program = tl.program_id(0)
    first = (program % column_blocks) * COLUMNS
    channel = program // (column_blocks * row_blocks)
    row = (program // column_blocks % row_blocks) * ROWS + tl.arange(0, ROWS)
    valid, rows = row < images * height, row % height
    planes = ((row // height).to(tl.int64) * channels + channel) * height * width
    columns = first + tl.arange(0, COLUMNS)
    reach = taps // 2
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    # The loop starts at a multiple of SOURCES, so that loads are aligned.
    for start in range(tl.maximum(first - reach, 0) // SOURCES * SOURCES, tl.minimum(width, first + COLUMNS + reach), SOURCES):
        sources = tl.multiple_of(start, SOURCES) + tl.arange(0, SOURCES)
        tap = sources[:, None] - columns[None, :] + reach
        toeplitz = weight + channel.to(tl.int64) * row_cells * taps + tap
        for cell in range(row_cells):
            # The means of a chunk of columns are computed again for each block of output columns that reaches it, up to
            # 1 + 2 * reach / COLUMNS times. Keeping them would take a map in global memory for each distinct cell height.
            means = _row_means(x, planes, rows, valid, sources, tl.load(tops + cell), tl.load(sizes + cell), height, width)
            factors = tl.load(toeplitz + cell * taps, mask=(tap >= 0) & (tap < taps), other=0.0)
            total = _add_product(total, means, factors, PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + channel)
    target = y + (planes + rows * width)[:, None] + columns[None, :]
    tl.store(target, total.to(y.dtype.element_ty), mask=valid[:, None] & (columns < width)[None, :])


@triton.jit(do_not_specialize=['images', 'channels', 'height', 'row_cells', 'column_cells', 'taps', 'chunks', 'size_class'])
def weight_grad(
    x, grad, partial, tops, sizes, lefts, widths, images, channels, height, width, row_cells, column_cells, taps, chunks, size_class,
    PRECISION: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Compute partial sums of the weight's gradient.

    A program computes what COLUMNS columns of the output's gradient and SOURCES columns of the map add to the gradient of one row of
    cells. It sums the products of all pairs of columns over all rows of all images, and then sums the pairs that belong to the taps of
    each cell. Each program writes its own results. They are added afterward in a fixed order, so every run gives the same bits.

    Args:
        x, grad: (images, channels, height, width).
        partial: (channels, row_cells, column blocks x chunks, column_cells), float32.
        tops, sizes: (row_cells,), int32. The first row of each row of cells, relative to the output's row, and its height.
        lefts, widths: (column_cells,), int32. The first column of each column of cells in the kernel, and its width.
        chunks: The number of chunks of SOURCES columns that the taps of a block can reach.
        size_class: A key for the autotuner's cache. The kernel does not use it.
    """
    blocks = tl.cdiv(width, COLUMNS) * chunks
    program = tl.program_id(0)
    block, cell = program % blocks, program // blocks % row_cells
    channel = program // (blocks * row_cells)
    first, reach = block // chunks * COLUMNS, taps // 2
    columns = first + tl.arange(0, COLUMNS)
    start = tl.maximum(first - reach, 0) // SOURCES * SOURCES + block % chunks * SOURCES
    sources = tl.multiple_of(start, SOURCES) + tl.arange(0, SOURCES)
    top, size = tl.load(tops + cell), tl.load(sizes + cell)
    pairs = tl.zeros((SOURCES, COLUMNS), tl.float32)
    for first_row in range(0, images * height, ROWS):
        row = first_row + tl.arange(0, ROWS)
        valid, rows = row < images * height, row % height
        planes = ((row // height).to(tl.int64) * channels + channel) * height * width
        means = _row_means(x, planes, rows, valid, sources, top, size, height, width)
        mask = valid[:, None] & (columns < width)[None, :]
        up = tl.load(grad + (planes + rows * width)[:, None] + columns[None, :], mask=mask, other=0.0)
        pairs = _add_product(pairs, tl.trans(means), up, PRECISION)
    tap = sources[:, None] - columns[None, :] + reach
    for column_cell in range(column_cells):
        left = tl.load(lefts + column_cell)
        within = (tap >= left) & (tap < left + tl.load(widths + column_cell))
        value = tl.sum(tl.where(within, pairs, 0.0)) * size
        tl.store(partial + program.to(tl.int64) * column_cells + column_cell, value)
