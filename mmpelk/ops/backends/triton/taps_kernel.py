"""A Triton kernel that evaluates a convolution on cells without tensor cores, in float32, as the native backend does on CPUs.

A row of cells w_0 .. w_n with borders e_0 .. e_n+1 is, by summation by parts, sum_e (w_e-1 - w_e) P[e], with P the prefix sums of the
means of the rows that it covers. The kernel goes through the columns once, and adds each prefix sum to all outputs of a thread that have
a border there. Prefix sums and outputs stay in registers. Neighboring threads compute neighboring channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A thread loads and stores single numbers, so the kernel is not faster for multiples of 16. Because only the constants are specialized,
# it is compiled once for each type, grid, and block.
ARGUMENTS = [
    'maps', 'steps', 'bias', 'y', 'kind_of', 'shift_of', 'biases', 'images', 'channels', 'height', 'width', 'row_cells', 'rows',
    'pitch', 'stride_n', 'stride_h', 'stride_w', 'size_class',
]  # fmt: skip


@triton.jit(do_not_specialize=ARGUMENTS)
def taps(
    maps, steps, bias, y, kind_of, shift_of, biases, images, channels, height, width, row_cells, rows, pitch, stride_n, stride_h,
    stride_w, size_class,
    EDGES: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the output of the convolution.

    A program computes COLUMNS columns of ROWS rows, which run through all images, of CHANNELS channels.

    Args:
        maps: (kinds, images, rows, width, pitch), from ``box_means``. The last dimension has the channels.
        steps: (row_cells, borders, pitch), float32. At each border, the weight of the cell after it minus that of the cell before it,
            both multiplied by the height of the cell.
        bias: (biases,), float32. ``biases`` is ``channels``, or 0 without a bias.
        y: (images, channels, height, width), with a stride of 1 along the channels.
        kind_of, shift_of: (row_cells,), int32. See ``kernels.correlate``.
        size_class: A key for the autotuner's cache. The kernel does not use it.
        EDGES: The borders of the cells, from 0 to the width of the kernel.
    """
    column_blocks, row_blocks = tl.cdiv(width, COLUMNS), tl.cdiv(images * height, ROWS)
    program = tl.program_id(0)
    # One number for each row, because Triton's interpreter takes only masks of whole tensors.
    first = tl.zeros((ROWS,), tl.int32) + program % column_blocks * COLUMNS
    channel = program // (column_blocks * row_blocks) * CHANNELS + tl.arange(0, CHANNELS)
    row = program // column_blocks % row_blocks * ROWS + tl.arange(0, ROWS)
    valid, image, line = row < images * height, row // height, row % height
    used = channel < channels
    extent: tl.constexpr = EDGES[len(EDGES) - 1]
    begin = first - extent // 2
    planes = maps + ((image * rows + line).to(tl.int64) * width * pitch)[:, None] + channel[None, :]
    total = (tl.zeros((ROWS, CHANNELS), tl.float32),) * COLUMNS
    for cell in range(row_cells):
        kind, shift = tl.load(kind_of + cell), tl.load(shift_of + cell)
        inside = (valid & (line + shift >= 0) & (line + shift < rows))[:, None] & used[None, :]
        lines = planes + (((kind.to(tl.int64) * images * rows + shift) * width + begin) * pitch)[:, None]
        step = ()
        for edge in tl.static_range(len(EDGES)):
            step += (tl.load(steps + (cell * len(EDGES) + edge) * pitch + channel, mask=used, other=0.0)[None, :],)
        prefix = tl.zeros((ROWS, CHANNELS), tl.float32)
        for column in tl.static_range(COLUMNS + extent - 1):
            mask = inside & ((begin + column >= 0) & (begin + column < width))[:, None]
            prefix += tl.load(lines, mask=mask, other=0.0).to(tl.float32)
            lines += pitch  # the compiler would keep all products of a column and the pitch in registers
            for edge in tl.static_range(len(EDGES)):
                if column + 1 - EDGES[edge] >= 0 and column + 1 - EDGES[edge] < COLUMNS:
                    added = total[column + 1 - EDGES[edge]] - step[edge] * prefix
                    total = total[: column + 1 - EDGES[edge]] + (added,) + total[column + 2 - EDGES[edge] :]
    offset = tl.load(bias + channel, mask=channel < biases, other=0.0)[None, :]
    results = y + (image.to(tl.int64) * stride_n + line.to(tl.int64) * stride_h + first * stride_w)[:, None] + channel[None, :]
    for column in tl.static_range(COLUMNS):
        mask = (valid & (first + column < width))[:, None] & used[None, :]
        tl.store(results + column * stride_w, (total[column] + offset).to(y.dtype.element_ty), mask=mask)
