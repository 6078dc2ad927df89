// What every machine of the compiler's target has: 4 channels in a register.
#define MMPELK_ISA portable
#define LANES 4
#define BLOCK 12
#define SWEEP 0
#define TAPS 6
#include "kernel.h"

namespace mmpelk {
const Kernels* portable_kernels() {
    static const Kernels kernels = {"portable", LANES, portable::forward, portable::weight_grad};
    return &kernels;
}
}  // namespace mmpelk
