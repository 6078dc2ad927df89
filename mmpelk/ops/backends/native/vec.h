// One register of floats, by the compiler's vector extension. The instruction set's file sets LANES and its namespace.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if !defined(__has_builtin)
#define __has_builtin(x) 0
#endif

namespace mmpelk::MMPELK_ISA {
namespace {

typedef float Vec __attribute__((vector_size(LANES * 4)));

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// The first `count` lanes; the others are zero, and their memory is not touched.
inline Vec load_some(const float* from, int count) {
    if (count == LANES) return load(from);
#if LANES == 16
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#else
    Vec v = {};
    for (int i = 0; i < count; i++) v[i] = from[i];
    return v;
#endif
}

inline void store_some(float* to, Vec v, int count) {
    if (count == LANES) return store(to, v);
#if LANES == 16
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), v);
#else
    for (int i = 0; i < count; i++) to[i] = v[i];
#endif
}

inline Vec splat(float value) { return value - Vec{}; }

// Lanes of a and b in turn, from their lower and upper halves.
template <int... I>
struct Lanes {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
    typedef Lanes<I...> type;
};

template <int half, int... I>
inline Vec interleave(Vec a, Vec b, Lanes<I...>) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, (half * LANES / 2 + I / 2 + I % 2 * LANES)...);
#else
    typedef int32_t Index __attribute__((vector_size(LANES * 4)));
    return __builtin_shuffle(a, b, Index{(half * LANES / 2 + I / 2 + I % 2 * LANES)...});
#endif
}

// LANES vectors of LANES floats: a perfect shuffle, log2(LANES) times.
inline void transpose(Vec* rows) {
    typename Count<LANES>::type lanes;
    Vec other[LANES];
    Vec *from = rows, *to = other;
    for (int stage = 1; stage < LANES; stage *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            to[2 * i] = interleave<0>(from[i], from[i + LANES / 2], lanes);
            to[2 * i + 1] = interleave<1>(from[i], from[i + LANES / 2], lanes);
        }
        Vec* swap = from;
        from = to, to = swap;
    }
    if (from != rows) std::memcpy(rows, from, sizeof other);
}

// `count` positions of `channels` channels that lie `stride` apart, to one vector of channels for each position.
inline void gather(const float* from, int64_t stride, int channels, int count, Vec* to) {
    if (count < LANES) {
        for (int i = 0; i < count; i++) {
            to[i] = Vec{};
            for (int c = 0; c < channels; c++) to[i][c] = from[c * stride + i];
        }
        return;
    }
    for (int start = 0; start < count; start += LANES) {
        int at = start + LANES > count ? count - LANES : start;
        Vec block[LANES];
        for (int c = 0; c < LANES; c++) block[c] = c < channels ? load(from + c * stride + at) : Vec{};
        transpose(block);
        for (int i = 0; i < LANES; i++) to[at + i] = block[i];
    }
}

// The reverse of gather.
inline void scatter(const Vec* from, int count, float* to, int64_t stride, int channels) {
    if (count < LANES) {
        for (int i = 0; i < count; i++)
            for (int c = 0; c < channels; c++) to[c * stride + i] = from[i][c];
        return;
    }
    for (int start = 0; start < count; start += LANES) {
        int at = start + LANES > count ? count - LANES : start;
        Vec block[LANES];
        for (int i = 0; i < LANES; i++) block[i] = from[at + i];
        transpose(block);
        for (int c = 0; c < channels; c++) store(to + c * stride + at, block[c]);
    }
}

}  // namespace
}  // namespace mmpelk::MMPELK_ISA
