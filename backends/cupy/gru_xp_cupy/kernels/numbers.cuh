// The types of the arrays' elements, and the types of the arithmetic: 16-bit numbers are converted
// to float32.
#pragma once

namespace gru_xp {

// These replace CUDA's own types, so that no CUDA header is needed.
struct half {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

// In device.cuh.
__device__ float half_to_float(unsigned short bits);
__device__ unsigned short float_to_half(float x);
__device__ unsigned short float_to_bfloat16(float x);

// The bits of x rounded to bfloat16: to the nearest, ties to even.
__device__ inline unsigned short bfloat16_bits(float x) {
    const unsigned bits = __float_as_uint(x);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const unsigned rounded = is_nan ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
    return static_cast<unsigned short>(rounded >> 16);
}

template <class T>
struct Computed {
    using type = float;
};
template <>
struct Computed<double> {
    using type = double;
};
template <class T>
using Real = typename Computed<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(half x) { return half_to_float(x.bits); }
__device__ inline float widen(bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

template <class T>
__device__ inline T narrow(Real<T> x) {
    return x;
}
template <>
__device__ inline half narrow<half>(float x) {
    return {float_to_half(x)};
}
template <>
__device__ inline bfloat16 narrow<bfloat16>(float x) {
    return {float_to_bfloat16(x)};
}

// The functions that the equations use.
template <class V>
struct Math;

template <>
struct Math<float> {
    __device__ static float tanh(float x) { return tanhf(x); }
    __device__ static float fma(float a, float b, float c) { return fmaf(a, b, c); }
    __device__ static float half() { return 0.5f; }
    __device__ static float one() { return 1.0f; }
};

template <>
struct Math<double> {
    __device__ static double tanh(double x) { return ::tanh(x); }
    __device__ static double fma(double a, double b, double c) { return ::fma(a, b, c); }
    __device__ static double half() { return 0.5; }
    __device__ static double one() { return 1.0; }
};

}  // namespace gru_xp
