// A register of floats, one lane for each channel, as a vector type of the compiler (GCC and Clang). The file of the instruction
// set defines MMPELK_LANES and MMPELK_NAMESPACE.
#pragma once
#include "standard_headers.h"

#if !defined(__has_builtin)
#define __has_builtin(x) 0
#endif

// Each instruction set has a namespace, and within it everything has internal linkage, so that the linker never merges functions
// that are compiled for different machines.
namespace mmpelk::MMPELK_NAMESPACE {
namespace {

constexpr int kLanes = MMPELK_LANES;
typedef float Vec __attribute__((vector_size(MMPELK_LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(MMPELK_LANES * 4)));

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// Load the first `count` lanes. The other lanes are zero, and their memory is not touched.
inline Vec load_first(const float* from, int count) {
    if (count == kLanes) return load(from);
#if defined(MMPELK_AVX512)
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#elif defined(MMPELK_AVX2)
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
#else
    Vec v = {};
    for (int i = 0; i < count; i++) v[i] = from[i];
    return v;
#endif
}

// Store the first `count` lanes.
inline void store_first(float* to, Vec v, int count) {
    if (count == kLanes) return store(to, v);
#if defined(MMPELK_AVX512)
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), v);
#else
    for (int i = 0; i < count; i++) to[i] = v[i];
#endif
}

// Return lanes of a and b in turn: those of their lower halves (Half = 0) or of their upper halves (Half = 1).
template <int Half, int... Lane>
inline Vec interleave(Vec a, Vec b, std::integer_sequence<int, Lane...>) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, (Half * kLanes / 2 + Lane / 2 + Lane % 2 * kLanes)...);
#else
    return __builtin_shuffle(a, b, IntVec{(Half * kLanes / 2 + Lane / 2 + Lane % 2 * kLanes)...});
#endif
}

// Transpose a kLanes x kLanes matrix in place.
#if defined(MMPELK_AVX2)
// The general form below takes twice as many instructions, because AVX2 can interleave only within the halves of a register.
inline void transpose(Vec* rows) {
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}
#else
// Interleaving the upper half of the rows with the lower half, log2(kLanes) times, does it.
inline void transpose(Vec* rows) {
    const std::make_integer_sequence<int, kLanes> lanes;
    Vec other[kLanes];
    Vec *from = rows, *to = other;
    for (int stage = 1; stage < kLanes; stage *= 2) {
        for (int i = 0; i < kLanes / 2; i++) {
            to[2 * i] = interleave<0>(from[i], from[i + kLanes / 2], lanes);
            to[2 * i + 1] = interleave<1>(from[i], from[i + kLanes / 2], lanes);
        }
        std::swap(from, to);
    }
    if (from != rows) std::memcpy(rows, from, sizeof other);
}
#endif

// Read `count` positions of `channels` channels, with any strides, into one vector of channels for each position.
inline void gather(const float* from, int64_t channel_stride, int64_t stride, int channels, int64_t count, Vec* to) {
    if (stride != 1 || count < kLanes) {
        for (int64_t i = 0; i < count; i++) {
            to[i] = Vec{};
            for (int c = 0; c < channels; c++) to[i][c] = from[c * channel_stride + i * stride];
        }
        return;
    }
    for (int64_t start = 0; start < count; start += kLanes) {
        const int64_t first = start + kLanes > count ? count - kLanes : start;  // the last square may overlap the one before
        Vec square[kLanes];
        for (int c = 0; c < kLanes; c++) square[c] = c < channels ? load(from + c * channel_stride + first) : Vec{};
        transpose(square);
        for (int i = 0; i < kLanes; i++) to[first + i] = square[i];
    }
}

// The reverse of gather.
inline void scatter(const Vec* from, int64_t count, float* to, int64_t channel_stride, int64_t stride, int channels) {
    if (stride != 1 || count < kLanes) {
        for (int64_t i = 0; i < count; i++)
            for (int c = 0; c < channels; c++) to[c * channel_stride + i * stride] = from[i][c];
        return;
    }
    for (int64_t start = 0; start < count; start += kLanes) {
        const int64_t first = start + kLanes > count ? count - kLanes : start;
        Vec square[kLanes];
        for (int i = 0; i < kLanes; i++) square[i] = from[first + i];
        transpose(square);
        for (int c = 0; c < channels; c++) store(to + c * channel_stride + first, square[c]);
    }
}

}  // namespace
}  // namespace mmpelk::MMPELK_NAMESPACE
