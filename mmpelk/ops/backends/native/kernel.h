// The functions of one instruction set. The file of each instruction set includes this once, after it has defined:
//
// MMPELK_NAMESPACE    Its namespace, and its name in the C interface.
// MMPELK_LANES        Floats in a register. One lane is one channel.
// MMPELK_TILE_WIDTH   Outputs whose sums stay in registers while all taps are added. A tap is loaded once for each tile, so wider
//                     tiles load less, until they no longer fit into the registers.
// MMPELK_SHARE_LOADS  1 if the weights of several taps fit into registers beside a tile, so that equally spaced taps share loads.
// MMPELK_GROUP_BYTES  Rows of cells are added to all tiles of an output row in groups of about this size, which should stay in the
//                     first-level cache.
// MMPELK_GRAD_TAPS    Taps whose gradients stay in registers along a row.
//
// Constants that all instruction sets share are in planner.cpp (how work is divided), row_sums.h (kRestart), channels.h
// (kMeanRows), and weight_grad.h (kTerms...). To retune, change a number, rebuild, and compare with the previous library:
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
        MMPELK_STRING(MMPELK_NAMESPACE), kLanes, forward_scratch_bytes, weight_grad_scratch_bytes, forward, weight_grad,
    };
    return functions;
}

}  // namespace mmpelk::MMPELK_NAMESPACE
