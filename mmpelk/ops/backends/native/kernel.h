// The functions of one instruction set. Each instruction set's file includes this once, with its own constants:
//
// MMPELK_NAMESPACE    Its namespace, and its name in the C interface.
// MMPELK_LANES        Floats in a register. One lane is one channel.
// MMPELK_TILE_WIDTH   Outputs whose sums stay in registers while all taps are added. A wider tile loads each tap less often; one that does
//                     not fit into the registers spills.
// MMPELK_SHARE_LOADS  1 if the weights of several taps fit into registers beside a tile, so that equally spaced taps can share loads.
// MMPELK_GRAD_TAPS    Taps whose gradients stay in registers along a row.
//
// To retune, change a number here or in planner.cpp, rebuild, and compare with the previous library:
//     cp mmpelk/ops/backends/native/_native.*.so /tmp/before.so
//     python setup.py build_ext --inplace
//     python tests/ops/backends/native/compare.py /tmp/before.so mmpelk/ops/backends/native/_native.*.so
#pragma once
#include "forward.h"
#include "instruction_sets.h"
#include "weight_grad.h"

#define MMPELK_STRING_OF(name) #name
#define MMPELK_STRING(name) MMPELK_STRING_OF(name)

namespace mmpelk::MMPELK_NAMESPACE {

const InstructionSet& instruction_set() {
    static const InstructionSet functions = {
        MMPELK_STRING(MMPELK_NAMESPACE), kLanes, forward_scratch_bytes, forward, weight_grad_scratch_bytes, weight_grad,
    };
    return functions;
}

}  // namespace mmpelk::MMPELK_NAMESPACE
