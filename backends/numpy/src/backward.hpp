// The recurrence backward: the gates' gradients of a step from the gradient of its state, and the
// product that takes them to the step before.
#pragma once

#include "elementary.hpp"
#include "forward.hpp"

namespace GRU_XP_ISA {

using gru_xp::Backward;

// Weights (3 size, size) as unit_vectors vectors of columns.
template <class T>
inline void pack_backward(T* packed, const T* weight_hh, index size, Range vectors) {
    constexpr int w = width<T>;
    for (index v = vectors.begin; v < vectors.end; ++v) {
        pack_straight(packed, weight_hh + v * w, size, size - v * w, 3 * size);
        packed += 3 * size * w;
    }
}

template <class T>
GRU_XP_ALWAYS bool is_padding(const Backward<T>& p, index t, index row) {
    return p.lengths && t >= p.lengths[row];
}

// Gradients of one row's gates in units [unit, unit + width) from that of the state after step t.
// Leaves in `carried` what goes past the gates.
template <class T>
GRU_XP_ALWAYS void back_through_gates(const Backward<T>& p, index t, index row, index unit,
                                      Vec<T> carried) {
    const index left = p.size - unit, at = (t * p.rows + row) * p.size + unit;
    const Vec<T> total = load_upto(p.dh + at, left) + carried;
    gru_xp::GateGradients<Vec<T>> d{};
    Vec<T> past = total;
    if (!is_padding(p, t, row)) {
        gru_xp::Gates<Vec<T>> g;
        g.r = load_upto(p.r + at, left);
        g.z = load_upto(p.z + at, left);
        g.n = load_upto(p.n + at, left);
        g.gh_n = load_upto(p.gh_n + at, left);
        d = gru_xp::gate_gradients<Math<T>>(g, load_upto(p.h_prev + at, left), total);
        past = total * g.z;
    }
    T* dgx = p.dgx + (t * p.rows + row) * 3 * p.size + unit;
    store_upto(dgx, d.r, left);
    store_upto(dgx + p.size, d.z, left);
    store_upto(dgx + 2 * p.size, d.n, left);
    store_upto(p.dgh_n + at, d.gh_n, left);
    store_upto(p.carried + row * p.size + unit, past, left);
}

// Takes the gradient of R rows and NV vectors of units back over step t, and on through the gates
// of the step before, `next`, where there is one.
template <class T, int R, int NV>
inline void backward_tile(const Backward<T>& p, index t, index next, index row, index vector) {
    constexpr int w = width<T>;
    const index size = p.size, depth = 3 * size;
    Vec<T> sum[R][NV];
    const T* dgx = p.dgx + (t * p.rows + row) * depth;
    const T* dgh_n = p.dgh_n + (t * p.rows + row) * size;
    const T* packed = p.packed + vector * depth * w;
    multiply<T, R, NV>({dgx, depth}, {packed, depth * w}, 2 * size, true, sum);
    multiply<T, R, NV>({dgh_n, size}, {packed + 2 * size * w, depth * w}, size, false, sum);
#pragma GCC unroll 12
    for (int v = 0; v < NV; ++v) {
        const index unit = (vector + v) * w;
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            T* past = p.carried + (row + i) * size + unit;
            Vec<T> carried = load_upto(past, size - unit);
            // In padding the product is of zeros, yet not zero where a weight is infinite.
            if (!is_padding(p, t, row + i)) carried = carried + sum[i][v];
            if (next >= 0)
                back_through_gates(p, next, row + i, unit, carried);
            else
                store_upto(past, carried, size - unit);
        }
    }
}

template <class T>
inline void backward(const Backward<T>& p, Range rows, Range vectors, gru_xp::Barrier* barrier) {
    constexpr int w = width<T>;
    const index first = p.reverse ? 0 : p.steps - 1, step = p.reverse ? 1 : -1;
    for (index row = rows.begin; row < rows.end; ++row)
        for (index v = vectors.begin; v < vectors.end; ++v)
            back_through_gates(p, first, row, v * w,
                               load_upto(p.carried + row * p.size + v * w, p.size - v * w));
    for (index s = 0; s < p.steps; ++s) {
        if (barrier) barrier->wait();
        const index t = first + s * step, next = s + 1 < p.steps ? t + step : -1;
        const auto tile = [&](auto r, auto nv, index row, index v) __attribute__((always_inline)) {
            backward_tile<T, decltype(r)::value, decltype(nv)::value>(p, t, next, row, v);
        };
        const index few = rows.end - rows.begin;
        const index most = few <= 4 ? most_vectors(int(few)) : 3;
        for (index v = vectors.begin; v < vectors.end;) {
            const index left = vectors.end - v;
            const index n = left >= most && left != 4 ? most : left == 4 ? 2 : left > 3 ? 3 : left;
            for (index row = rows.begin; row < rows.end; row += most_rows)
                with_rows<most_rows>(rows.end - row, [&](auto r) __attribute__((always_inline)) {
                    constexpr int widest = most_vectors(decltype(r)::value);
                    if (n > 3 && n == widest)
                        tile(r, Constant<widest>{}, row, v);
                    else if (n >= 3)
                        for (index u = 0; u < n; u += 3) tile(r, Constant<3>{}, row, v + u);
                    else if (n == 2)
                        tile(r, Constant<2>{}, row, v);
                    else
                        tile(r, Constant<1>{}, row, v);
                });
            v += n;
        }
    }
}

}  // namespace GRU_XP_ISA
