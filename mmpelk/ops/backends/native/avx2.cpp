// AVX2 with FMA. Everything below the pragma is compiled for this instruction set.
#include "standard_headers.h"
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MMPELK_NAMESPACE avx2
#define MMPELK_AVX2
#define MMPELK_LANES 8
#define MMPELK_TILE_WIDTH 12  // with a weight and a loaded vector, these fit into the 16 registers; 14 was not faster
#define MMPELK_SHARE_LOADS 0  // the weights of several taps would not fit into the registers
// On 128x128 maps, groups of 24 KB take 0.90 to 0.97 of the time without groups. 12 to 32 KB differ little, and nothing changes on
// smaller maps (2 cores of an AMD EPYC with first-level caches of 32 KB, 2026-11-29).
#define MMPELK_GROUP_BYTES (24 << 10)
#define MMPELK_GRAD_TAPS 6    // each tap also takes a pointer, of which more would not fit into the general registers
#include "kernel.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
