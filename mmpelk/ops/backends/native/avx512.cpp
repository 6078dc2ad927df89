// AVX-512: 16 channels in a register. The pragmas come first: everything below is compiled for this instruction set.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#define MMPELK_ISA avx512
#define NAME "avx512"
#define KERNELS avx512_kernels
#define LANES 16
#define BLOCK 16
#define SWEEP 1
#define TAPS 9
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
