// AVX-512. Everything below the pragma is compiled for this instruction set. For tests on machines without it,
// MMPELK_EMULATE_AVX512 compiles the same code with 16 lanes for any machine.
#include "standard_headers.h"
#if defined(__x86_64__) || defined(MMPELK_EMULATE_AVX512)
#if !defined(MMPELK_EMULATE_AVX512)
#define MMPELK_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#endif
#define MMPELK_NAMESPACE avx512
#define MMPELK_LANES 16
#define MMPELK_TILE_WIDTH 16    // with the weights of 8 taps and a loaded vector, these fit into the 32 registers
#define MMPELK_SHARE_LOADS 1    // see add_to_tile
#define MMPELK_GROUP_BYTES (1 << 20)  // all rows: shared loads need the cache less. Smaller groups were not measured.
#define MMPELK_GRAD_TAPS 9      // the 14 or 18 taps of K = 51 and 101 make two groups, with 9 pointers in general registers
#include "kernel.h"
#if defined(__clang__) && !defined(MMPELK_EMULATE_AVX512)
#pragma clang attribute pop
#endif
#endif
