#include "instruction_sets.h"

#include <cstring>
#include <vector>

namespace mmpelk {
namespace {

const std::vector<const InstructionSet*>& all_instruction_sets() {
    static const std::vector<const InstructionSet*> all = [] {
        std::vector<const InstructionSet*> found;
#if defined(MMPELK_EMULATE_AVX512)
        found.push_back(&avx512::instruction_set());
#elif defined(__x86_64__)
        const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
        if (has_avx512) found.push_back(&avx512::instruction_set());
#endif
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2::instruction_set());
#endif
        found.push_back(&portable::instruction_set());
        return found;
    }();
    return all;
}

}  // namespace

const InstructionSet* instruction_set_at(int index) {
    const auto& all = all_instruction_sets();
    return index >= 0 && index < (int)all.size() ? all[index] : nullptr;
}

const InstructionSet* find_instruction_set(const char* name) {
    for (const InstructionSet* set : all_instruction_sets())
        if (!std::strcmp(set->name, name)) return set;
    return nullptr;
}

}  // namespace mmpelk
