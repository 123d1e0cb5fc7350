// One unit of one row through one step, forward and backward, with what is read and written.
#pragma once

#include "device.cuh"
#include "gru_xp_include/equations.hpp"
#include "numbers.cuh"

namespace gru_xp {

using Index = long long;

__device__ inline bool is_padding(const Index* lengths, Index t, Index row) {
    return lengths && t >= lengths[row];
}

template <class T>
struct Forward {
    const T* gx;    // (steps, rows, 3 size)
    const T* b_hn;  // (size,), or null
    T *r, *z, *n, *gh_n;  // (steps, rows, size); null if no tape is wanted
    const Index* lengths;  // (rows,), or null
    Index rows, size;
};

// The state after step t from that before it and from the products of the recurrent weights.
template <class T>
__device__ Real<T> unit_forward(const Forward<T>& p, Index t, Index row, Index unit, Real<T> h,
                                Real<T> gh_r, Real<T> gh_z, Real<T> gh_n) {
    using M = Math<Real<T>>;
    const Index at = (t * p.rows + row) * p.size + unit;
    const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
    Gates<Real<T>> g{};
    Real<T> next = h;
    if (!is_padding(p.lengths, t, row)) {
        if (p.b_hn) gh_n = gh_n + widen(p.b_hn[unit]);
        g = gates<M>(widen(gx[0]), widen(gx[p.size]), widen(gx[2 * p.size]), gh_r, gh_z, gh_n);
        next = next_state<M>(g, h);
    }
    if (p.r) {
        p.r[at] = narrow<T>(g.r);
        p.z[at] = narrow<T>(g.z);
        p.n[at] = narrow<T>(g.n);
        p.gh_n[at] = narrow<T>(g.gh_n);
    }
    return next;
}

template <class T>
struct Backward {
    const T *dh, *h_prev, *r, *z, *n, *gh_n;  // (steps, rows, size)
    T* dgx;    // (steps, rows, 3 size)
    T* dgh_n;  // (steps, rows, size)
    const Index* lengths;  // (rows,), or null
    Index rows, size;
};

// Gradients of the gates of step t from `carried`, the gradient that the steps behind it give to
// its state. Returns what goes to the state before past the gates.
template <class T>
__device__ Real<T> unit_backward(const Backward<T>& p, Index t, Index row, Index unit,
                                 Real<T> carried) {
    using M = Math<Real<T>>;
    const Index at = (t * p.rows + row) * p.size + unit;
    const Real<T> total = widen(p.dh[at]) + carried;
    GateGradients<Real<T>> d{};
    Real<T> past = total;
    if (!is_padding(p.lengths, t, row)) {
        Gates<Real<T>> g;
        g.r = widen(p.r[at]);
        g.z = widen(p.z[at]);
        g.n = widen(p.n[at]);
        g.gh_n = widen(p.gh_n[at]);
        d = gate_gradients<M>(g, widen(p.h_prev[at]), total);
        past = total * g.z;
    }
    T* dgx = p.dgx + (t * p.rows + row) * 3 * p.size + unit;
    dgx[0] = narrow<T>(d.r);
    dgx[p.size] = narrow<T>(d.z);
    dgx[2 * p.size] = narrow<T>(d.n);
    p.dgh_n[at] = narrow<T>(d.gh_n);
    return past;
}

}  // namespace gru_xp
