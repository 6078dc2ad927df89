// The instruction sets that the library is compiled for.
#pragma once
#include "plan.h"

namespace mmpelk {

namespace portable {
const InstructionSet& instruction_set();
}
namespace avx2 {
const InstructionSet& instruction_set();
}
namespace avx512 {
const InstructionSet& instruction_set();
}

// Return the index-th instruction set that this machine has, fastest first, or null beyond the last.
const InstructionSet* instruction_set_at(int index);

// Return null if this machine or the library does not have it.
const InstructionSet* find_instruction_set(const char* name);

}  // namespace mmpelk
