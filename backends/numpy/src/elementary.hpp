// tanh on vectors, and the other vector functions that the equations need.
//
// tanh(x) = e / (e + 1) with e = expm1(2x) / 2. With x = k ln(2)/2 + s and |s| <= ln(2)/4,
// e = 2^k u + (2^k - 1) / 2, where u = expm1(2s) / 2 = s + s^2 q(s) and q is a minimax polynomial.
// tests/test_native.py checks float32 to within 2 ulp for every 64th input, or for every input with
// GRU_XP_EXHAUSTIVE=1, and float64 to within 4 ulp. tanh(-0) is +0.
#pragma once

#include "simd.hpp"

namespace GRU_XP_ISA {

template <class T>
struct Tanh;

template <>
struct Tanh<float> {
    static constexpr float largest = 9.5f;  // from 9.02 on, tanh rounds to 1
    static constexpr float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr int mantissa = 23;
    static constexpr float half_ln2_high = 0.3466796875f, half_ln2_low = -1.06097220e-4f;
    static constexpr float q[] = {1.000000009f, 0.6666666548f, 0.3333308829f, 0.1333342279f,
                                  0.04461015315f, 0.01270144238f};
};

template <>
struct Tanh<double> {
    static constexpr double largest = 19.5;  // from 19.07 on, tanh rounds to 1
    static constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int mantissa = 52;
    static constexpr double half_ln2_high = 3.46573590184561908245e-01;
    static constexpr double half_ln2_low = 9.5410746463529385e-11;
    static constexpr double q[] = {1.0000000000000001308, 0.66666666666666878656, 0.33333333333328793354, 0.1333333333327591732, 0.044444444450263466083, 0.01269841275846137195, 0.0031746028315037394935, 0.00070546437472207216266, 0.00014110283516237101864, 0.000025724946875148876204, 4.1827152638119085328e-6};
};

// The functions that the equations use. V is a vector of T, or `Two<T>` to compute two at once.
template <class T, class V = Vec<T>>
struct Math {
    using C = Tanh<T>;

    static GRU_XP_ALWAYS V all(T x) { return everywhere<V>(x); }
    static GRU_XP_ALWAYS V one() { return all(T(1)); }
    static GRU_XP_ALWAYS V half() { return all(T(0.5)); }
    static GRU_XP_ALWAYS V fma(V a, V b, V c) { return exact_fma(a, b, c); }

    static GRU_XP_ALWAYS V tanh(V x) {
        x = clamp(x, C::largest);
        const V rounded = fma(x, all(T(2.88539008177792681472)), all(C::shift));  // 2 / ln 2
        const V k = rounded - C::shift;
        V s = fma(-k, all(C::half_ln2_high), x);
        s = fma(-k, all(C::half_ln2_low), s);
        constexpr int degree = sizeof(C::q) / sizeof(C::q[0]) - 1;
        V q = all(C::q[degree]);
#pragma GCC unroll 16
        for (int i = degree - 1; i >= 0; --i) q = fma(q, s, all(C::q[i]));
        const V u = fma(s * s, q, s);
        const V power = power_of_two<C::mantissa, T>(rounded, T(1));
        const V e = fma(power, u, fma(power, half(), -half()));
        return ratio_to_next(e);
    }
};

}  // namespace GRU_XP_ISA
