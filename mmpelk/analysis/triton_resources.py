"""Compile every variant of the Triton kernels for several generations of GPUs, and report what each needs. No GPU is necessary."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from mmpelk.ops.backends import triton as backend
from mmpelk.ops.backends.triton import taps
from mmpelk.utils.errors import InputError

from .operator_benchmark import default_grid

CAPABILITIES = (80, 90)  # A100, H100
NAMES = {torch.float32: 'fp32', torch.float16: 'fp16', torch.bfloat16: 'bf16'}
INT32 = ('heights', 'sizes', 'cells', 'kind_of', 'shift_of', 'lefts', 'widths')
FLOAT32 = ('bias', 'partial', 'steps')
# Triton specializes the kernels at run time if these numbers are multiples of 16.
ALIGNED = ('pitch', 'length')
KERNELS = ('correlate', 'taps', 'weight_grad', 'box_means', 'spread_taps')
WIDTH = 128


def compile_variants(
    capabilities: Sequence[int] = CAPABILITIES,
    dtypes: Sequence[torch.dtype] = tuple(NAMES),
    kernels: Sequence[str] = KERNELS,
    kernel_size: int = 51,
) -> list[dict]:
    """Compile the kernels with all blocks, for maps of at least 128 columns.

    Args:
        capabilities: Compute capabilities, such as 90 for 9.0.
        dtypes: Types of the maps.
        kernels: Names of the kernels.
        kernel_size: K of the default grid, which only ``taps`` depends on.

    Returns:
        For each variant: ``kernel``, ``capability``, ``dtype``, ``block`` (rows, columns, source columns, warps, and stages; for ``taps``
        rows, channels, columns, and warps), ``registers`` of a thread, ``stack`` in bytes, which is what spills, ``shared`` in bytes of
        a program, and the numbers of ``cp_async`` and ``mma`` instructions in the PTX code.

    Raises:
        InputError: If Triton interprets kernels in this process instead of compiling them.
    """
    if os.environ.get('TRITON_INTERPRET') == '1':
        raise InputError('kernels cannot be compiled with TRITON_INTERPRET=1; unset it')
    return [
        _compile(name, dtype, capability, block, default_grid(kernel_size).edges)
        for capability in capabilities
        for dtype in dtypes
        for name, blocks in (
            ('correlate', backend.blocks('correlate', dtype, WIDTH)),
            ('taps', taps.blocks(WIDTH)),
            ('weight_grad', backend.blocks('weight_grad', dtype, WIDTH)),
            ('box_means', (None,)),
            ('spread_taps', (None,)),
        )
        if name in kernels
        for block in blocks
    ]


def _compile(name: str, dtype: torch.dtype, capability: int, block: tuple[int, ...] | None, edges: tuple[int, ...]) -> dict:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmpelk.ops.backends.triton import kernels, taps_kernel

    kernel = taps_kernel.taps if name == 'taps' else getattr(kernels, name)
    constants = dict(
        HAS_BIAS=True, PRECISION='tf32x3', SHIFTS=16 // dtype.itemsize, BLOCK=128, CHANNELS=32, POSITIONS=32, EDGES=edges
    )
    options = {}
    if name == 'taps':
        constants.update(zip(('ROWS', 'CHANNELS', 'COLUMNS'), block[:3], strict=True))
        options = dict(num_warps=block[3])
    elif block:
        constants.update(zip(('ROWS', 'COLUMNS', 'SOURCES'), block[:3], strict=True))
        options = dict(num_warps=block[3], num_stages=block[4])
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature, attributes = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = 'constexpr'
            continue
        pointer = _pointer(argument, dtype)
        signature[argument] = f'*{pointer}' if pointer else 'i32'
        if (pointer or argument in ALIGNED) and not kernel.params[index].do_not_specialize:
            attributes[index,] = [['tt.divisibility', 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    ptx = compiled.asm['ptx']
    return dict(
        kernel=name,
        capability=capability,
        dtype=NAMES[dtype],
        block=str(block or ''),
        **_usage(compiled.asm['cubin']),
        shared=compiled.metadata.shared,
        cp_async=len(re.findall(r'cp\.async\.c[ag]\.shared', ptx)),
        mma=len(re.findall(r'\b(?:wgmma\.mma_async|mma\.sync)', ptx)),
    )


def _pointer(argument: str, dtype: torch.dtype) -> str | None:
    if argument in INT32:
        return 'i32'
    if argument in FLOAT32:
        return 'fp32'
    return NAMES[dtype] if argument in ('x', 'maps', 'weight', 'factors', 'y', 'grad') else None


def _usage(cubin: bytes) -> dict[str, int]:
    """Read the registers and the stack of a kernel from its machine code."""
    import triton

    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, '-res-usage', file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', text).groups()
    return dict(registers=int(registers), stack=int(stack))
