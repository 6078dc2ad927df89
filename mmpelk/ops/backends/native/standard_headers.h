// The standard headers of the kernels. The file of an instruction set includes them before the pragma that selects the
// instruction set, so that the standard library's functions are compiled for every machine.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MMPELK_ADDRESS_SANITIZER  // Clang
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MMPELK_ADDRESS_SANITIZER  // GCC
#endif
#if defined(MMPELK_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif
