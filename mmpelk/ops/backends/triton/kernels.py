"""Triton kernels for a depthwise convolution whose kernel is constant over cells, as one small matrix product per row of cells.

A row of cells of height t adds a matrix product to the outputs of a block: the means over t rows of the map, times a Toeplitz matrix of
the taps of this row. The products run on the tensor cores and are summed in float32. They use means instead of sums, so that float16
cannot overflow where its input did not. The taps are multiplied by t and must not overflow then: with t = 42, weights up to 1559 are
safe. The cells of a kernel determine only loop bounds, so one compilation works for all grids.

``box_means`` and ``spread_taps`` first write both factors to memory in such a form that ``correlate`` and ``weight_grad`` read them in
aligned pieces of 16 bytes. Triton turns these loads into asynchronous copies to shared memory, several steps ahead of the products.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=['blocks', 'images', 'channels', 'height', 'width', 'kinds', 'pad', 'rows'])
def box_means(
    x, heights, maps, blocks, images, channels, height, width, kinds, pad, stride_n, stride_c, stride_h, stride_w, rows, pitch,
    maps_c, maps_t, maps_n, maps_p, CHANNELS: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    """Average the map over boxes of rows, for each distinct height of a cell.

    maps(c, t, n, i, j) = mean of x[n, c, i - pad ..., j] over heights[t] rows. x is zero outside the map.

    Args:
        x: (images, channels, height, width), with any strides.
        heights: (kinds,), int32, increasing.
        maps: The result. ``rows`` is height + pad, and ``pitch`` at least the width; the columns after the width are zero.
        blocks: The number of programs for CHANNELS channels of an image.
        pad: The largest height minus 1.
        maps_c, maps_t, maps_n, maps_p: Strides of the result by channel, height, image, and position, which is i * pitch + j.
    """
    program = tl.program_id(0)  # the other axes of a grid have at most 65535 programs
    position = program % blocks * POSITIONS + tl.arange(0, POSITIONS)
    image = program // blocks % images
    channel = program // (blocks * images) * CHANNELS + tl.arange(0, CHANNELS)
    row, column = position // pitch - pad, position % pitch
    source = x + image.to(tl.int64) * stride_n + channel.to(tl.int64)[:, None] * stride_c + column[None, :] * stride_w
    inside = (channel < channels)[:, None] & (column < width)[None, :]
    target = maps + image.to(tl.int64) * maps_n + channel.to(tl.int64)[:, None] * maps_c + position.to(tl.int64)[None, :] * maps_p
    written = (channel < channels)[:, None] & (position < rows * pitch)[None, :]
    total = tl.zeros((CHANNELS, POSITIONS), tl.float32)
    done = 0
    for kind in range(kinds):
        size = tl.load(heights + kind)
        for offset in range(done, size):
            here = row + offset
            mask = inside & ((here >= 0) & (here < height))[None, :]
            total += tl.load(source + (here.to(tl.int64) * stride_h)[None, :], mask=mask, other=0.0).to(tl.float32)
        done = size
        tl.store(target, (total * (1.0 / size)).to(maps.dtype.element_ty), mask=written)
        target += maps_t


@triton.jit(do_not_specialize=['weight', 'row_cells', 'column_cells', 'taps', 'offset'])
def spread_taps(
    weight, sizes, cells, factors, row_cells, column_cells, taps, offset, stride_c, stride_r, stride_w, length,
    SHIFTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the taps of each row of cells, reversed and with zeros around them, once for each shift within 16 bytes.

    factors[c, a, m, z] = sizes[a] * weight[c, a, cells[k]], with the tap k = taps // 2 - (z - m - offset). Row s of a Toeplitz matrix
    then consists of adjacent elements, and starts at a multiple of 16 bytes in the copy m = s % SHIFTS.

    Args:
        weight: (channels, row_cells, column_cells), with any strides.
        sizes: (row_cells,), int32. The heights of the cells.
        cells: (taps,), int32. The column cell of each tap.
        factors: (channels, row_cells, SHIFTS, length).
    """
    program = tl.program_id(0)
    channel, row = (program // row_cells).to(tl.int64), program % row_cells
    shift = tl.arange(0, SHIFTS)
    size = tl.load(sizes + row).to(tl.float32)
    for start in range(0, length, BLOCK):
        z = start + tl.arange(0, BLOCK)
        tap = taps // 2 - (z[None, :] - shift[:, None] - offset)
        inside = (tap >= 0) & (tap < taps)
        cell = tl.load(cells + tap, mask=inside, other=0)
        value = tl.load(weight + channel * stride_c + row * stride_r + cell * stride_w, mask=inside, other=0.0).to(tl.float32)
        target = factors + (program.to(tl.int64) * SHIFTS + shift)[:, None] * length + z[None, :]
        tl.store(target, (value * size).to(factors.dtype.element_ty), mask=(z < length)[None, :])


@triton.jit
def _add_product(total, left, right, PRECISION: tl.constexpr):
    """Return total + left @ right in float32."""
    if PRECISION == 'interpreted':  # the interpreter would multiply the bits of bfloat16 as integers
        return tl.dot(left.to(tl.float32), right.to(tl.float32), total)
    else:
        return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit(
    do_not_specialize=['bias', 'images', 'channels', 'height', 'width', 'row_cells', 'kinds', 'reach', 'offset', 'size_class']
)
def correlate(
    maps, factors, bias, y, kind_of, shift_of, images, channels, height, width, row_cells, kinds, reach, offset, rows, pitch, length,
    stride_n, stride_c, stride_h, size_class,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, SHIFTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr,
):  # fmt: skip
    """Compute the output of the convolution.

    y[n, c, i, j] = bias[c] + sum over cells a and columns s of maps[c, kind_of[a], n, i + shift_of[a], s] * factor of (a, j - s).
    A program computes COLUMNS columns of ROWS rows, which run through all images of one channel. It reads SOURCES columns at a time.

    Args:
        maps: (channels, kinds, images, rows, pitch), from ``box_means``.
        factors: (channels, row_cells, SHIFTS, length), from ``spread_taps`` with the same ``offset``.
        bias: (channels,), float32.
        y: (images, channels, height, width), with a stride of 1 along the width.
        kind_of, shift_of: (row_cells,), int32. The map that each row of cells reads, and its first row there relative to the output's.
        reach: Half of the kernel's width, rounded down.
        size_class: A key for the autotuner's cache. The kernel does not use it.
    """
    column_blocks, row_blocks = tl.cdiv(width, COLUMNS), tl.cdiv(images * height, ROWS)
    program = tl.program_id(0)
    first = (program % column_blocks) * COLUMNS
    channel = (program // (column_blocks * row_blocks)).to(tl.int64)
    row = (program // column_blocks % row_blocks) * ROWS + tl.arange(0, ROWS)
    valid, image, line = row < images * height, row // height, row % height
    columns, source = tl.arange(0, COLUMNS), tl.arange(0, SOURCES)
    # Row s of the factors, counted from the first source column. Both terms are multiples of 16 bytes.
    ahead = tl.multiple_of(offset + source % SHIFTS - source, SHIFTS)
    factor = factors + channel * row_cells * SHIFTS * length + (source % SHIFTS * length + ahead)[:, None] + columns[None, :]
    lines = maps + channel * kinds * images * rows * pitch + (image * rows + line)[:, None] * pitch + source[None, :]
    begin = tl.maximum(first - reach, 0) // SOURCES * SOURCES
    chunks = tl.cdiv(tl.minimum(width, first + COLUMNS + reach) - begin, SOURCES)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    kind, shift = tl.load(kind_of), tl.load(shift_of)
    for step in range(chunks * row_cells):
        cell, start = step % row_cells, tl.multiple_of(begin + step // row_cells * SOURCES, 16)
        inside = (valid & (line + shift >= 0) & (line + shift < rows))[:, None] & (start + source < pitch)[None, :]
        at = tl.multiple_of((kind.to(tl.int64) * images * rows + shift) * pitch + start, 16)
        means = tl.load(lines + at, mask=inside, other=0.0)
        toeplitz = tl.load(factor + tl.multiple_of(cell * SHIFTS * length + first - start, 16))
        total = _add_product(total, means, toeplitz, PRECISION)
        # Read one step ahead: a load whose address depends on another load of its step is not copied asynchronously.
        following = (step + 1) % row_cells
        kind, shift = tl.load(kind_of + following), tl.load(shift_of + following)
    if HAS_BIAS:
        total += tl.load(bias + channel)
    results = y + channel * stride_c + first + image.to(tl.int64) * stride_n + line * stride_h
    tl.store(
        results[:, None] + columns[None, :],
        total.to(y.dtype.element_ty),
        mask=valid[:, None] & (columns < width - first)[None, :],
    )


@triton.jit(do_not_specialize=['images', 'height', 'width', 'row_cells', 'column_cells', 'kinds', 'taps', 'chunks', 'size_class'])
def weight_grad(
    maps, grad, partial, kind_of, shift_of, sizes, lefts, widths, images, height, width, row_cells, column_cells, kinds, taps, chunks,
    rows, pitch, size_class,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SOURCES: tl.constexpr,
):  # fmt: skip
    """Compute partial sums of the weight's gradient.

    A program computes what COLUMNS columns of the output's gradient and SOURCES columns of the map add to the gradient of one row of
    cells. It sums the products of all pairs of columns over all rows of all images, and then sums the pairs that belong to the taps of
    each cell. Each program writes its own results. They are added afterward in a fixed order, so every run gives the same bits.

    Args:
        maps: (channels, kinds, images, rows, pitch), from ``box_means``.
        grad: (channels, images, height, pitch), from ``box_means`` with the single height 1.
        partial: (channels, row_cells, column blocks x chunks, column_cells), float32.
        kind_of, shift_of, sizes: (row_cells,), int32. See ``correlate``; and the heights of the cells.
        lefts, widths: (column_cells,), int32. The first column of each column of cells in the kernel, and its width.
        chunks: The number of chunks of SOURCES columns that the taps of a block can reach.
        size_class: A key for the autotuner's cache. The kernel does not use it.
    """
    blocks = tl.cdiv(width, COLUMNS) * chunks
    program = tl.program_id(0)
    block, cell = program % blocks, program // blocks % row_cells
    channel = (program // (blocks * row_cells)).to(tl.int64)
    first, reach = block // chunks * COLUMNS, taps // 2
    columns = first + tl.arange(0, COLUMNS)
    start = tl.maximum(first - reach, 0) // SOURCES * SOURCES + block % chunks * SOURCES
    sources = tl.multiple_of(start, 16) + tl.arange(0, SOURCES)
    kind, shift, size = tl.load(kind_of + cell), tl.load(shift_of + cell), tl.load(sizes + cell)
    lines = maps + (channel * kinds + kind) * images * rows * pitch + sources[:, None]
    ups = grad + channel * images * height * pitch + columns[None, :]
    pairs = tl.zeros((SOURCES, COLUMNS), tl.float32)
    for first_row in range(0, images * height, ROWS):
        row = first_row + tl.arange(0, ROWS)
        valid, line = row < images * height, row % height + shift
        inside = (sources < pitch)[:, None] & (valid & (line >= 0) & (line < rows))[None, :]
        means = tl.load(lines + (row // height * rows + line)[None, :] * pitch, mask=inside, other=0.0)
        up = tl.load(ups + row[:, None] * pitch, mask=valid[:, None] & (columns < pitch)[None, :], other=0.0)
        pairs = _add_product(pairs, means, up, PRECISION)
    tap = sources[:, None] - columns[None, :] + reach
    for column_cell in range(column_cells):
        left = tl.load(lefts + column_cell)
        within = (tap >= left) & (tap < left + tl.load(widths + column_cell))
        value = tl.sum(tl.where(within, pairs, 0.0)) * size
        tl.store(partial + program.to(tl.int64) * column_cells + column_cell, value)
