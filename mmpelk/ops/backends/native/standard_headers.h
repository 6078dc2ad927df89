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
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
