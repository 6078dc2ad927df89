#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <new>
#if defined(_OPENMP)
#include <pthread.h>
#else
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace mmpelk {
namespace {

// Exceptions must not leave a thread. The first one is kept for the caller.
class Guard {
  public:
    explicit Guard(const std::function<void(int64_t)>& body) : body_(body) {}
    void operator()(int64_t index) {
        if (failed_.load(std::memory_order_relaxed)) return;
        try {
            body_(index);
        } catch (...) {
            if (!failed_.exchange(true)) error_ = std::current_exception();
        }
    }
    // After all threads have finished.
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    const std::function<void(int64_t)>& body_;
    std::atomic<bool> failed_{false};
    std::exception_ptr error_;
};

#if defined(_OPENMP)

// OpenMP keeps its threads between calls, which takes less time than starting threads, but a forked process does not inherit
// them: its first parallel region would wait for them forever. So a forked process computes in the calling thread.
std::atomic<bool> forked{false};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run_on_threads(int64_t count, int threads, Guard& guard) {
    if (forked) threads = 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < count; i++) guard(i);
}

#else

// Without OpenMP, which Apple's compilers do not have, each call starts its threads and waits for them to end. A forked process
// does the same, so it needs no special case.
void run_on_threads(int64_t count, int threads, Guard& guard) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t i; (i = next++) < count;) guard(i);
    };
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    try {
        while ((int)others.size() < threads - 1) others.emplace_back(work);
    } catch (const std::system_error&) {
        // The system allows no more threads. Those that have started share the work.
    }
    work();
    for (std::thread& other : others) other.join();
}

#endif

class ScratchMemory {
  public:
    ScratchMemory() = default;
    ScratchMemory(const ScratchMemory&) = delete;
    ~ScratchMemory() { std::free(memory_); }
    char* at_least(int64_t bytes) {
        if (bytes > size_) {
            std::free(memory_);
            memory_ = nullptr, size_ = 0;
            if (posix_memalign(&memory_, 64, bytes)) {
                memory_ = nullptr;
                throw std::bad_alloc();
            }
            size_ = bytes;
        }
        return static_cast<char*>(memory_);
    }

  private:
    void* memory_ = nullptr;
    int64_t size_ = 0;
};

// Kept between calls, because for a small map, new memory costs as much as the computation: the system has to map its pages.
thread_local ScratchMemory scratch_memory;

}  // namespace

void parallel_for(int64_t count, int threads, const std::function<void(int64_t)>& body) {
    Guard guard(body);
    run_on_threads(count, (int)std::max<int64_t>(1, std::min<int64_t>(threads, count)), guard);
    guard.rethrow();
}

Scratch thread_scratch(int64_t bytes) { return {scratch_memory.at_least(bytes), bytes}; }

}  // namespace mmpelk
