// A step of one unit of one row, forward and backward: its loads, its equations and its stores.
//
// These are separate functions, because the persistent kernel loads one step ahead, and stores what
// no other block waits for after it has told the others to go on.
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
    T *r, *z, *n, *gh_n;  // (steps, rows, size); null if there is no tape
    const Index* lengths;  // (rows,), or null
    Index rows, size;
};

// The inputs of a step besides the state, its products and the bias.
template <class T>
struct Input {
    Real<T> gx_r, gx_z, gx_n;
    bool padding;
};

template <class T>
__device__ Real<T> bias(const Forward<T>& p, Index unit) {
    return p.b_hn ? widen(p.b_hn[unit]) : Real<T>(0);
}

template <class T>
__device__ Input<T> load(const Forward<T>& p, Index t, Index row, Index unit) {
    const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
    return {widen(gx[0]), widen(gx[p.size]), widen(gx[2 * p.size]),
            is_padding(p.lengths, t, row)};
}

// Prefetches what `load` will read.
template <class T>
__device__ void fetch_ahead(const Forward<T>& p, Index t, Index row, Index unit) {
    const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) fetch_ahead(gx + gate * p.size);
}

// The gates of a step from the recurrent products; gh_n includes the bias. Zero in padding.
template <class T>
__device__ Gates<Real<T>> step(const Input<T>& x, Real<T> gh_r, Real<T> gh_z, Real<T> gh_n) {
    if (x.padding) return {};
    return gates<Math<Real<T>>>(x.gx_r, x.gx_z, x.gx_n, gh_r, gh_z, gh_n);
}

template <class T>
__device__ Real<T> next(const Input<T>& x, const Gates<Real<T>>& g, Real<T> h) {
    return x.padding ? h : next_state<Math<Real<T>>>(g, h);
}

template <class T>
__device__ void store(const Forward<T>& p, Index t, Index row, Index unit,
                      const Gates<Real<T>>& g) {
    if (!p.r) return;
    const Index at = (t * p.rows + row) * p.size + unit;
    p.r[at] = narrow<T>(g.r);
    p.z[at] = narrow<T>(g.z);
    p.n[at] = narrow<T>(g.n);
    p.gh_n[at] = narrow<T>(g.gh_n);
}

template <class T>
struct Backward {
    const T *dh, *h_prev, *r, *z, *n, *gh_n;  // (steps, rows, size)
    T* dgx;    // (steps, rows, 3 size)
    T* dgh_n;  // (steps, rows, size)
    const Index* lengths;  // (rows,), or null
    Index rows, size;
};

// The inputs of a backward step besides the gradient from later steps.
template <class T>
struct Kept {
    Gates<Real<T>> gates;
    Real<T> h, dh;
    bool padding;
};

template <class T>
__device__ Kept<T> load(const Backward<T>& p, Index t, Index row, Index unit) {
    const Index at = (t * p.rows + row) * p.size + unit;
    return {{widen(p.r[at]), widen(p.z[at]), widen(p.n[at]), widen(p.gh_n[at])},
            widen(p.h_prev[at]),
            widen(p.dh[at]),
            is_padding(p.lengths, t, row)};
}

template <class T>
__device__ void fetch_ahead(const Backward<T>& p, Index t, Index row, Index unit) {
    const Index at = (t * p.rows + row) * p.size + unit;
    const T* arrays[] = {p.r, p.z, p.n, p.gh_n, p.h_prev, p.dh};
#pragma unroll
    for (const T* each : arrays) fetch_ahead(each + at);
}

// Gradients of the gates of a step from `total`, the gradient of its state. Zero in padding.
template <class T>
__device__ GateGradients<Real<T>> step(const Kept<T>& x, Real<T> total) {
    if (x.padding) return {};
    return gate_gradients<Math<Real<T>>>(x.gates, x.h, total);
}

// The part of the gradient that reaches the previous state without passing through the gates.
template <class T>
__device__ Real<T> past(const Kept<T>& x, Real<T> total) {
    return x.padding ? total : total * x.gates.z;
}

template <class T>
__device__ void store(const Backward<T>& p, Index t, Index row, Index unit,
                      const GateGradients<Real<T>>& d) {
    T* dgx = p.dgx + (t * p.rows + row) * 3 * p.size + unit;
    dgx[0] = narrow<T>(d.r);
    dgx[p.size] = narrow<T>(d.z);
    dgx[2 * p.size] = narrow<T>(d.n);
    p.dgh_n[(t * p.rows + row) * p.size + unit] = narrow<T>(d.gh_n);
}

}  // namespace gru_xp
