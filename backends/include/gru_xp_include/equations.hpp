// One step of the gated recurrent unit and its derivative, reset gate after the product; at the end
// what differs where it acts before.
//
// The same equations as gru_xp/core/equations.py, which says where they come from:
//
//     r = sigmoid(gx_r + gh_r)          gx = W_x x + b_x, with b_hr and b_hz added
//     z = sigmoid(gx_z + gh_z)          gh = W_h h
//     n = tanh(gx_n + r * (gh_n + b_hn))
//     h_next = (1 - z) * n + z * h
//
// V is a number or a vector of numbers. Math supplies, for V: tanh(x) and fma(a, b, c) = a * b + c.
// Nothing here is left for a compiler to contract: what is fused says so, so that every
// instantiation rounds alike.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GRU_XP_INLINE __host__ __device__ __forceinline__
#else
#define GRU_XP_INLINE inline __attribute__((always_inline))
#endif

namespace gru_xp {

// What a step computes on its way, all of which its derivative needs.
template <class V>
struct Gates {
    V r, z, n;
    V gh_n;  // W_nh h + b_hn, which the reset gate scales
};

// The logistic function, as a tanh, which cannot overflow.
template <class Math, class V>
GRU_XP_INLINE V sigmoid(V x) {
    return Math::fma(Math::tanh(V(x * Math::half())), Math::half(), Math::half());
}

// gh_n holds b_hn.
template <class Math, class V>
GRU_XP_INLINE Gates<V> gates(V gx_r, V gx_z, V gx_n, V gh_r, V gh_z, V gh_n) {
    Gates<V> g;
    g.r = sigmoid<Math>(V(gx_r + gh_r));
    g.z = sigmoid<Math>(V(gx_z + gh_z));
    g.n = Math::tanh(Math::fma(g.r, gh_n, gx_n));
    g.gh_n = gh_n;
    return g;
}

template <class Math, class V>
GRU_XP_INLINE V next_state(const Gates<V>& g, V h) {
    return Math::fma(g.z, h, V((Math::one() - g.z) * g.n));
}

// Gradients with respect to gx; those with respect to gh are the same for r and z, and gh_n.
template <class V>
struct GateGradients {
    V r, z, n, gh_n;
};

// `total` is the whole gradient with respect to h_next. Its way to h past the gates is z * total.
template <class Math, class V>
GRU_XP_INLINE GateGradients<V> gate_gradients(const Gates<V>& g, V h, V total) {
    const V one = Math::one();
    GateGradients<V> d;
    // (1 - n)(1 + n) keeps the digits that 1 - n * n loses where n is close to 1.
    d.n = total * (one - g.z) * ((one - g.n) * (one + g.n));
    d.z = total * (h - g.n) * (g.z * (one - g.z));
    d.r = d.n * g.gh_n * (g.r * (one - g.r));
    d.gh_n = d.n * g.r;
    return d;
}

// Where the reset gate acts before the product,
//
//     n = tanh(gx_n + W_nh (r * h))     b_hn is in gx_n
//
// the rest is as above: in `gates` r and gh_n play no part in z and h_next, nor in the gradients d.z and
// d.n, of which d.n is also that of the product. What is left is r's, from that of r * h.
template <class Math, class V>
GRU_XP_INLINE V reset_gradient(V r, V h, V of_reset_h) {
    return of_reset_h * h * (r * (Math::one() - r));
}

}  // namespace gru_xp
