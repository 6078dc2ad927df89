// Divides a task's scratch memory into arrays.
#pragma once
#include "plan.h"
#include "standard_headers.h"

namespace mmpelk::MMPELK_NAMESPACE {
namespace {

constexpr int64_t kAlignment = 64;
#if defined(MMPELK_ADDRESS_SANITIZER)
constexpr int64_t kGap = 64;  // between arrays, where AddressSanitizer reports any access
#else
constexpr int64_t kGap = 0;
#endif

// The scratch memory that an array of `count` elements takes.
template <class Element>
constexpr int64_t scratch_bytes(int64_t count) {
    return (count * (int64_t)sizeof(Element) + kAlignment - 1) / kAlignment * kAlignment + kGap;
}

class Arena {
  public:
    explicit Arena(const Scratch& scratch) : next_(scratch.memory), end_(scratch.memory + scratch.bytes) {
#if defined(MMPELK_ADDRESS_SANITIZER)
        ASAN_POISON_MEMORY_REGION(scratch.memory, scratch.bytes);
#endif
    }
    // An array of plain data, uninitialized.
    template <class Element>
    Element* take(int64_t count) {
        const int64_t bytes = scratch_bytes<Element>(count);
        if (bytes > end_ - next_) throw std::logic_error("a task takes more scratch memory than it has computed");
        char* memory = next_;
        next_ += bytes;
#if defined(MMPELK_ADDRESS_SANITIZER)
        ASAN_UNPOISON_MEMORY_REGION(memory, count * sizeof(Element));
#endif
        return static_cast<Element*>(static_cast<void*>(memory));
    }

  private:
    char *next_, *end_;
};

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
