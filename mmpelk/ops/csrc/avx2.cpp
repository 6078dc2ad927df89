// AVX2: 8 channels in a register. The pragmas come first: everything below is compiled for this instruction set.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MMPELK_ISA avx2
#define LANES 8
#define BLOCK 12
#define SWEEP 0
#define TAPS 6
#include "kernel.h"

namespace mmpelk {
const Kernels* avx2_kernels() {
    static const Kernels kernels = {"avx2", LANES, avx2::forward, avx2::weight_grad};
    return &kernels;
}
}  // namespace mmpelk
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
