// Threads, and the scratch memory that each of them keeps.
#pragma once
#include <functional>

#include "plan.h"

namespace mmpelk {

// Call body(0) .. body(count - 1), each once and in any order, on up to `threads` threads, one of which is the caller's. If calls
// throw, one of the exceptions is thrown again, and the remaining calls may be skipped.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body);

// Return scratch memory of this thread, uninitialized. The next call of this thread invalidates it.
Scratch thread_scratch(int64_t bytes);

}  // namespace mmpelk
