// Vectors of the widest kind that this translation unit is compiled for.
//
// They are the compiler's own vector types, so that one source serves every processor. Intrinsics
// are used only for what these types cannot express, such as a fused multiply-add, a masked load or
// an approximate reciprocal. Everything is inline and in the namespace of the instruction set,
// because translation units compiled for different processors must never share a function.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define GRU_XP_ALWAYS inline __attribute__((always_inline))

namespace GRU_XP_ISA {

using index = ptrdiff_t;

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int registers = 16;
#else
constexpr int vector_bytes = 16;
#if defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
#endif

template <class T>
struct Integer;
template <>
struct Integer<float> {
    using type = int32_t;
};
template <>
struct Integer<double> {
    using type = int64_t;
};

template <class T>
struct Simd {
    typedef T V __attribute__((vector_size(vector_bytes)));
    using I = typename Integer<T>::type;
    typedef I VI __attribute__((vector_size(vector_bytes)));
    static constexpr int width = vector_bytes / int(sizeof(T));
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using IntVec = typename Simd<T>::VI;
template <class T>
constexpr int width = Simd<T>::width;

template <class T>
GRU_XP_ALWAYS Vec<T> splat(T x) {
    return x - Vec<T>{};
}

template <class T>
GRU_XP_ALWAYS Vec<T> load(const T* p) {
    Vec<T> v;
    memcpy(&v, p, sizeof v);
    return v;
}

template <class T>
GRU_XP_ALWAYS void store(T* p, Vec<T> v) {
    memcpy(p, &v, sizeof v);
}

constexpr index first_cache = 1 << 15;  // bytes of an L1 data cache

// Prefetches `count` >= 1 numbers into the L2 cache. L1 is not used because, with sizes that are
// powers of two, everything that a step reads would map to a few L1 cache sets. Always inlined,
// because GCC drops calls to a function that does nothing but prefetch.
template <class T>
GRU_XP_ALWAYS void fetch_numbers(const T* p, index count) {
    constexpr index line = 64 / index(sizeof(T));
    for (index i = 0; i < count; i += line) __builtin_prefetch(p + i, 0, 2);
    // The numbers need not start at a cache line, so the last one may lie on another line.
    __builtin_prefetch(p + count - 1, 0, 2);
}

// Copies the first `count` < 2 * Piece numbers in pieces whose sizes are compile-time constants.
template <int Piece, class T>
GRU_XP_ALWAYS void copy_first(T* to, const T* from, int count) {
    if constexpr (Piece > 0) {
        if (count & Piece) {
            memcpy(to, from, Piece * sizeof(T));
            to += Piece;
            from += Piece;
        }
        copy_first<Piece / 2>(to, from, count);
    }
}

// Loads the first `count` < width elements; the others are zero.
template <class T>
GRU_XP_ALWAYS Vec<T> load_first(const T* p, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
    else
        return _mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
#elif defined(__AVX2__)
    alignas(64) static constexpr int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    const auto* from = ones + (width<T> - count) * int(sizeof(T) / sizeof *ones);
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if constexpr (sizeof(T) == 4)
        return _mm256_maskload_ps(p, mask);
    else
        return _mm256_maskload_pd(p, mask);
#else
    T kept[width<T>] = {};
    copy_first<width<T> / 2>(kept, p, count);
    return load(kept);
#endif
}

// Stores the first `count` < width elements.
template <class T>
GRU_XP_ALWAYS void store_first(T* p, Vec<T> v, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), v);
    else
        _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), v);
#else
    T kept[width<T>];
    store(kept, v);
    copy_first<width<T> / 2>(p, kept, count);
#endif
}

// Loads min(count, width) elements; the others are zero.
template <class T>
GRU_XP_ALWAYS Vec<T> load_upto(const T* p, index count) {
    return count >= width<T> ? load(p) : load_first(p, int(count));
}

// Stores the first min(count, width) elements.
template <class T>
GRU_XP_ALWAYS void store_upto(T* p, Vec<T> v, index count) {
    if (count >= width<T>)
        store(p, v);
    else
        store_first(p, v, int(count));
}

// a * b + c. Rounded once if the processor has an instruction for it, otherwise twice; the choice
// is the same everywhere in a translation unit.
GRU_XP_ALWAYS Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

GRU_XP_ALWAYS Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f64(c, a, b);
#else
    return a * b + c;
#endif
}

// min(max(x, -limit), limit), but NaN where x is NaN.
GRU_XP_ALWAYS Vec<float> clamp(Vec<float> x, float limit) {
    const Vec<float> high = splat(limit), low = splat(-limit);
#if defined(__AVX512F__)
    return _mm512_min_ps(high, _mm512_max_ps(low, x));  // returns the second if either is NaN
#elif defined(__FMA__)
    return _mm256_min_ps(high, _mm256_max_ps(low, x));
#elif defined(__aarch64__)
    return vminq_f32(high, vmaxq_f32(low, x));
#else
    const Vec<float> above = low > x ? low : x;
    return high < above ? high : above;
#endif
}

GRU_XP_ALWAYS Vec<double> clamp(Vec<double> x, double limit) {
    const Vec<double> high = splat(limit), low = splat(-limit);
#if defined(__aarch64__)
    return vminq_f64(high, vmaxq_f64(low, x));
#else
    const Vec<double> above = low > x ? low : x;
    return high < above ? high : above;
#endif
}

// a * b + c for the few places where the accuracy of a function depends on a single rounding.
// Rounded once with fused operations. Without them, float32 is computed in float64, where the
// product is exact, and then rounded to float32; float64 is rounded twice.
#if defined(__AVX512F__) || defined(__FMA__) || defined(__aarch64__)
template <class V>
GRU_XP_ALWAYS V exact_fma(V a, V b, V c) {
    return fma(a, b, c);
}
#else
GRU_XP_ALWAYS Vec<float> exact_fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    typedef double Wide __attribute__((vector_size(2 * vector_bytes)));
    return __builtin_convertvector(__builtin_convertvector(a, Wide) *
                                           __builtin_convertvector(b, Wide) +
                                       __builtin_convertvector(c, Wide),
                                   Vec<float>);
}

GRU_XP_ALWAYS Vec<double> exact_fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return a * b + c;
}
#endif

// Approximates 1 / b to at least 14 bits, for b in [0.5, 2^100].
GRU_XP_ALWAYS Vec<float> reciprocal(Vec<float> b) {
#if defined(__AVX512F__)
    return _mm512_rcp14_ps(b);
#elif defined(__FMA__)
    const Vec<float> y = _mm256_rcp_ps(b);
    return fma(fma(-b, y, splat(1.0f)), y, y);
#elif defined(__aarch64__)
    const Vec<float> y = vrecpeq_f32(b);  // 8 bits
    return fma(fma(-b, y, splat(1.0f)), y, y);
#else
    return 1 / b;
#endif
}

GRU_XP_ALWAYS Vec<double> reciprocal(Vec<double> b) { return 1.0 / b; }

// Two vectors that go through the same computation, interleaved operation by operation. A function
// such as tanh is a chain of dependent operations, so the processor has time for a second one.
template <class T>
struct Two {
    Vec<T> a, b;

    friend GRU_XP_ALWAYS Two operator+(Two x, Two y) { return {x.a + y.a, x.b + y.b}; }
    friend GRU_XP_ALWAYS Two operator-(Two x, Two y) { return {x.a - y.a, x.b - y.b}; }
    friend GRU_XP_ALWAYS Two operator*(Two x, Two y) { return {x.a * y.a, x.b * y.b}; }
    friend GRU_XP_ALWAYS Two operator+(Two x, T y) { return {x.a + y, x.b + y}; }
    friend GRU_XP_ALWAYS Two operator-(Two x, T y) { return {x.a - y, x.b - y}; }
    friend GRU_XP_ALWAYS Two operator-(Two x) { return {-x.a, -x.b}; }
};

template <class T>
GRU_XP_ALWAYS Two<T> exact_fma(Two<T> x, Two<T> y, Two<T> z) {
    return {exact_fma(x.a, y.a, z.a), exact_fma(x.b, y.b, z.b)};
}

template <class T>
GRU_XP_ALWAYS Two<T> clamp(Two<T> x, T limit) {
    return {clamp(x.a, limit), clamp(x.b, limit)};
}

template <class T>
GRU_XP_ALWAYS Two<T> reciprocal(Two<T> x) {
    return {reciprocal(x.a), reciprocal(x.b)};
}

// Sets all elements of V, a vector or `Two`, to x.
template <class V, class T>
GRU_XP_ALWAYS V everywhere(T x) {
    if constexpr (sizeof(V) == sizeof(Vec<T>))
        return splat(x);
    else
        return {splat(x), splat(x)};
}

// Returns one * 2^k, where k is the signed integer in the lowest bits of x.
template <int mantissa, class T>
GRU_XP_ALWAYS Vec<T> power_of_two(Vec<T> x, T one) {
    return Vec<T>((IntVec<T>(x) << mantissa) + IntVec<T>(splat(one)));
}

template <int mantissa, class T>
GRU_XP_ALWAYS Two<T> power_of_two(Two<T> x, T one) {
    return {power_of_two<mantissa, T>(x.a, one), power_of_two<mantissa, T>(x.b, one)};
}

// e / (e + 1) for e > -0.5, unaffected by the rounding of e + 1: the approximate ratio is corrected
// by its remainder e - ratio (e + 1). The correction takes a third of the time of a division.
template <class V>
GRU_XP_ALWAYS V ratio_to_next(V e) {
    const V y = reciprocal(e + 1), ratio = e * y;
    return exact_fma(exact_fma(-ratio, e, e - ratio), y, ratio);
}

// Loads a vector of 16-byte lanes, lane p from `from` + p * stride.
template <class T>
GRU_XP_ALWAYS Vec<T> load_lanes(const T* from, index stride) {
#if defined(__AVX512F__) || defined(__AVX2__)
    const auto lane = [&](index p) __attribute__((always_inline)) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + p * stride));
    };
#endif
#if defined(__AVX512F__)
    __m512i v = _mm512_castsi128_si512(lane(0));
    v = _mm512_inserti32x4(v, lane(1), 1);
    v = _mm512_inserti32x4(v, lane(2), 2);
    v = _mm512_inserti32x4(v, lane(3), 3);
    return Vec<T>(v);
#elif defined(__AVX2__)
    return Vec<T>(_mm256_inserti128_si256(_mm256_castsi128_si256(lane(0)), lane(1), 1));
#else
    (void)stride;
    return load(from);
#endif
}

// Selects elements of the concatenation of a and b: element i is the one at index place[i].
template <class T, int... place>
GRU_XP_ALWAYS Vec<T> shuffled(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, place...);
#else  // GCC has __builtin_shufflevector only from version 12 on
    return __builtin_shuffle(a, b, IntVec<T>{place...});
#endif
}

// Combines the first half (or with `high` the second half) of each 16-byte lane of a and of b into
// one lane. Elements of a and b alternate; with `whole`, all of a's come first, then all of b's.
template <class T, bool whole, bool high, int... i>
GRU_XP_ALWAYS Vec<T> half_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, i...>) {
    constexpr int lane = 16 / int(sizeof(T)), half = lane / 2, w = width<T>;
    return shuffled<T, (i / lane * lane + (high ? half : 0) +
                        (whole ? i % half + (i % lane < half ? 0 : w)
                               : i % lane / 2 + (i % 2 ? w : 0)))...>(a, b);
}

// Transposes small squares in place. With `lane` elements in a 16-byte lane, takes `lane` vectors
// and swaps element i of every lane of column[m] with element m of the same lane of column[i].
template <class T>
GRU_XP_ALWAYS void transpose_lanes(Vec<T>* column) {
    constexpr int lane = 16 / int(sizeof(T));
    const std::make_integer_sequence<int, width<T>> places;
    const Vec<T> low = half_lanes<T, false, false>(column[0], column[1], places);
    const Vec<T> high = half_lanes<T, false, true>(column[0], column[1], places);
    if constexpr (lane == 2) {
        column[0] = low;
        column[1] = high;
    } else {
        const Vec<T> other_low = half_lanes<T, false, false>(column[2], column[3], places);
        const Vec<T> other_high = half_lanes<T, false, true>(column[2], column[3], places);
        column[0] = half_lanes<T, true, false>(low, other_low, places);
        column[1] = half_lanes<T, true, true>(low, other_low, places);
        column[2] = half_lanes<T, true, false>(high, other_high, places);
        column[3] = half_lanes<T, true, true>(high, other_high, places);
    }
}

// Loads a square of width x width numbers, whose row j is at source + j * stride, transposed:
// element (j, k) becomes element j of column[k].
//
// One vector takes its lanes from rows that are `lane` apart. Only small squares within the lanes
// are then left to transpose, where shuffles are cheap.
template <class T>
GRU_XP_ALWAYS void load_transposed(const T* source, index stride, Vec<T> (&column)[width<T>]) {
    constexpr int w = width<T>, lane = 16 / int(sizeof(T));
#pragma GCC unroll 8
    for (int q = 0; q < w; q += lane) {
#pragma GCC unroll 4
        for (int m = 0; m < lane; ++m)
            column[q + m] = load_lanes(source + m * stride + q, lane * stride);
        transpose_lanes<T>(column + q);
    }
}

}  // namespace GRU_XP_ISA
