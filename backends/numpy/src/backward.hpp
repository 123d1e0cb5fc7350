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
    constexpr int w = width<T>, some = 8;
    const index stride = 3 * size * w;
    for (index v = vectors.begin; v < vectors.end; v += some, packed += some * stride) {
        const index n = vectors.end - v < some ? vectors.end - v : index(some);
        pack_straight(packed, stride, weight_hh + v * w, size, size - v * w, int(n), 3 * size);
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

// Fetches what back_through_gates of R rows will read and write; see fetch_for_gates.
template <class T, int R, int NV>
GRU_XP_ALWAYS void fetch_for_gradients(const Backward<T>& p, index t, index row, index unit) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 12
        for (int v = 0; v < NV; ++v) {
            const index at = (t * p.rows + row + i) * p.size + unit + v * width<T>;
            __builtin_prefetch(p.dh + at, 0, 2);
            __builtin_prefetch(p.h_prev + at, 0, 2);
            __builtin_prefetch(p.r + at, 0, 2);
            __builtin_prefetch(p.z + at, 0, 2);
            __builtin_prefetch(p.n + at, 0, 2);
            __builtin_prefetch(p.gh_n + at, 0, 2);
            __builtin_prefetch(p.dgh_n + at, 0, 2);
            const T* dgx = p.dgx + (t * p.rows + row + i) * 3 * p.size + unit + v * width<T>;
            for (int gate = 0; gate < 3; ++gate)
                __builtin_prefetch(dgx + gate * p.size, 0, 2);
        }
}

// One block of the product that takes the gradients of R rows and NV vectors of units back over
// step t; with the last one on through the gates of the step before, `next`, where there is one.
template <class T, int R, int NV>
inline void backward_tile(const Backward<T>& p, index t, index next, index row, index vector,
                          const Part<T, R, NV>& part) {
    constexpr int w = width<T>;
    const index size = p.size;
    if (part.last && next >= 0) fetch_for_gradients<T, R, NV>(p, next, row, vector * w);
    Vec<T> sum[R][NV];
    if (!part.add(sum)) return;
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

// Terms of the product that one chain adds up from number k on. The gradients of n's recurrent product
// lie apart from those of r's and z's.
inline index terms_at_once(index size, index k) {
    const index left = (k >= 2 * size ? 3 : 2) * size - k;
    return left < block ? left : block;
}

// The step that the way back starts with.
template <class T>
inline index first_back(const Backward<T>& p) {
    return p.reverse ? 0 : p.steps - 1;
}

template <class T>
inline void backward_start(const Backward<T>& p, Range rows, Range vectors) {
    constexpr int w = width<T>;
    for (index row = rows.begin; row < rows.end; ++row)
        for (index v = vectors.begin; v < vectors.end; ++v)
            back_through_gates(p, first_back(p), row, v * w,
                               load_upto(p.carried + row * p.size + v * w, p.size - v * w));
}

// The product of one step of one row, for which the weights are used once.
template <class T>
inline bool backward_of_row(const Backward<T>& p, Range vectors) {
    if (is_padding(p, 0, 0)) return true;
    const index unit = vectors.begin * width<T>, end = vectors.end * width<T>;
    const index units = (end < p.size ? end : p.size) - unit, depth = 3 * p.size;
    gru_xp::Scratch scratch;
    T *total = scratch.take<T>(units), *sum = scratch.take<T>(units);
    if (!total || !sum) return false;
    for (index k = 0, count; k < depth; k += count) {
        count = terms_at_once(p.size, k);
        const T* gradients = k >= 2 * p.size ? p.dgh_n + k - 2 * p.size : p.dgx + k;
        T* to = k == 0 ? total : sum;
        multiply_straight(gradients, p.weight_hh + k * p.size + unit, p.size, units, count, to);
        if (k > 0) add_to(total, sum, units);
    }
    add_to(p.carried + unit, total, units);
    return true;
}

template <class T>
inline bool backward(const Backward<T>& p, Range rows, Range vectors, Range steps) {
    if (!p.packed) return backward_of_row(p, vectors);
    constexpr int w = width<T>;
    const index size = p.size, depth = 3 * size, stride = depth * w;
    const index few = rows.end - rows.begin, most = few <= 4 ? most_vectors(int(few)) : 3;
    gru_xp::Scratch scratch;
    T* sums = scratch.take<T>((few + most_rows - 1) / most_rows * accumulators * w);
    if (!sums) return false;
    const index start = first_back(p), onward = p.reverse ? 1 : -1;
    for (index s = steps.begin; s < steps.end; ++s) {
        const index t = start + s * onward, next = s + 1 < p.steps ? t + onward : -1;
        for (index vector = vectors.begin, n; vector < vectors.end; vector += n) {
            const index left = vectors.end - vector;
            n = left >= most && left != 4 ? most : left == 4 ? 2 : left > 3 ? 3 : left;
            const T* packed = p.packed + vector * stride;
            for (index k = 0, count; k < depth; k += count) {
                const bool of_n = k >= 2 * size;
                count = terms_at_once(size, k);
                const bool last = k + count == depth;
                const T* soon = !last ? packed + (k + count) * w
                                : left > n ? packed + n * stride : nullptr;
                index tile = 0;
                for (index row = rows.begin; row < rows.end; row += most_rows, ++tile)
                    with_rows<most_rows>(rows.end - row, [&](auto r)
                                             __attribute__((always_inline)) {
                        constexpr int R = decltype(r)::value, widest = most_vectors(R);
                        const index at = t * p.rows + row;
                        const T* a = of_n ? p.dgh_n + at * size + k - 2 * size
                                          : p.dgx + at * depth + k;
                        const T* fetch = tile < 3 && soon ? soon + tile * stride : nullptr;
                        const auto go = [&](auto nv, index u) __attribute__((always_inline)) {
                            constexpr int NV = decltype(nv)::value;
                            backward_tile<T, R, NV>(
                                p, t, next, row, vector + u,
                                {a, of_n ? size : depth, packed + u * stride + k * w, stride, count,
                                 k == 0, last, sums + (tile * accumulators + u * R) * w, fetch});
                        };
                        if (n > 3 && n == widest)
                            go(Constant<widest>{}, 0);
                        else if (n >= 3)
                            for (index u = 0; u < n; u += 3) go(Constant<3>{}, u);
                        else if (n == 2)
                            go(Constant<2>{}, 0);
                        else
                            go(Constant<1>{}, 0);
                    });
            }
        }
    }
    return true;
}

}  // namespace GRU_XP_ISA
