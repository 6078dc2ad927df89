// AVX2: 8 channels in a register. The pragmas come first: everything below is compiled for this instruction set.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MMPELK_ISA avx2
#define NAME "avx2"
#define KERNELS avx2_kernels
#define LANES 8
#define BLOCK 12
#define SWEEP 0
#define TAPS 6
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
