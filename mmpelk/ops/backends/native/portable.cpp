// What every machine of the compiler's target has: 4 channels in a register.
#define MMPELK_ISA portable
#define NAME "portable"
#define KERNELS portable_kernels
#define LANES 4
#define BLOCK 12
#define SWEEP 0
#define TAPS 6
#include "kernel.h"
