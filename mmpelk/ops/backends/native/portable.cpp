// The instructions that every machine of the compiler's target has. Their registers have at least 4 lanes on all common machines.
#define MMPELK_NAMESPACE portable
#define MMPELK_LANES 4
#define MMPELK_TILE_WIDTH 12  // as for AVX2, which also has 16 registers
#define MMPELK_SHARE_LOADS 0
#define MMPELK_GROUP_BYTES (24 << 10)
#define MMPELK_GRAD_TAPS 6
#include "kernel.h"
