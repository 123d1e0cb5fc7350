// A step of one unit of one row, forward and backward: its loads, its equations and its stores.
//
// These are separate functions, because the persistent kernel loads one step ahead, and stores what
// no other block waits for after it has told the others to go on. For the same reason, loads do not
// convert what they load: a thread would have to wait for it.
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
    Index rows, size;
};

// The inputs of a step besides the state, its products and the bias.
template <class T>
struct Input {
    T gx_r, gx_z, gx_n;
};

template <class T>
__device__ Real<T> bias(const Forward<T>& p, Index unit) {
    return p.b_hn ? widen(p.b_hn[unit]) : Real<T>(0);
}

template <class T>
__device__ Input<T> load(const Forward<T>& p, Index t, Index row, Index unit) {
    const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
    return {gx[0], gx[p.size], gx[2 * p.size]};
}

// Prefetches what `load` will read.
template <class T>
__device__ void fetch_ahead(const Forward<T>& p, Index t, Index row, Index unit) {
    const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) fetch_ahead(gx + gate * p.size);
}

// The gates of a step from the recurrent products; gh_n includes the bias. Zero in padding, where
// they are computed nevertheless: without a branch, the steps of several rows overlap. `once` keeps
// the compiler from moving the arithmetic into a branch.
template <class T>
__device__ Gates<Real<T>> step(const Input<T>& x, bool padding, Real<T> gh_r, Real<T> gh_z,
                               Real<T> gh_n) {
    Gates<Real<T>> g = gates<Math<Real<T>>>(widen(x.gx_r), widen(x.gx_z), widen(x.gx_n), gh_r,
                                            gh_z, gh_n);
    g.z = once(g.z);
    g.n = once(g.n);  // r has been computed then
    return padding ? Gates<Real<T>>{} : g;
}

template <class V>
__device__ V next(const Gates<V>& g, bool padding, V h) {
    return padding ? h : next_state<Math<V>>(g, h);
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
    Index rows, size;
};

// The inputs of a backward step besides the gradient from later steps.
template <class T>
struct Kept {
    T r, z, n, gh_n, h, dh;
};

template <class T>
__device__ Kept<T> load(const Backward<T>& p, Index t, Index row, Index unit) {
    const Index at = (t * p.rows + row) * p.size + unit;
    return {p.r[at], p.z[at], p.n[at], p.gh_n[at], p.h_prev[at], p.dh[at]};
}

template <class T>
__device__ void fetch_ahead(const Backward<T>& p, Index t, Index row, Index unit) {
    const Index at = (t * p.rows + row) * p.size + unit;
    const T* arrays[] = {p.r, p.z, p.n, p.gh_n, p.h_prev, p.dh};
#pragma unroll
    for (const T* each : arrays) fetch_ahead(each + at);
}

// Gradients of the gates of a step from `total`, the gradient of its state. Zero in padding, where
// they are computed nevertheless, like the gates.
template <class T>
__device__ GateGradients<Real<T>> step(const Kept<T>& x, bool padding, Real<T> total) {
    const Gates<Real<T>> g{widen(x.r), widen(x.z), widen(x.n), widen(x.gh_n)};
    GateGradients<Real<T>> d = gate_gradients<Math<Real<T>>>(g, widen(x.h), total);
    d.r = once(d.r);
    d.z = once(d.z);
    d.gh_n = once(d.gh_n);  // n has been computed then
    return padding ? GateGradients<Real<T>>{} : d;
}

// The part of the gradient that reaches the previous state without passing through the gates.
template <class T>
__device__ Real<T> past(const Kept<T>& x, bool padding, Real<T> total) {
    return padding ? total : total * widen(x.z);
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
