// The recurrence forward: the product of a tile, and its gates while it is in registers.
#pragma once

#include "elementary.hpp"
#include "gru_xp_include/equations.hpp"
#include "kernels.hpp"
#include "pack.hpp"
#include "threads.hpp"

namespace GRU_XP_ISA {

using gru_xp::Forward;
using gru_xp::Range;

template <class T>
inline index unit_vectors(index size) {
    return (size + width<T> - 1) / width<T>;
}

// Weights (3 size, size) as vectors of columns; the three gates of the same units are neighbours.
template <class T>
inline void pack_forward(T* packed, const T* weight_hh, index size, Range vectors) {
    constexpr int w = width<T>;
    for (index v = vectors.begin; v < vectors.end; ++v) {
        const index gate = v % 3, unit = v / 3 * w;
        pack_transposed(packed, weight_hh + (gate * size + unit) * size, size, size - unit, size);
        packed += size * w;
    }
}

// As many numbers as a vector has, or where there are fewer, `left`.
template <bool Whole, class T>
GRU_XP_ALWAYS Vec<T> get(const T* p, index left) {
    return Whole ? load(p) : load_first(p, int(left));
}

template <bool Whole, class T>
GRU_XP_ALWAYS void put(T* p, Vec<T> v, index left) {
    if (Whole)
        store(p, v);
    else
        store_first(p, v, int(left));
}

// The gates of one vector of units of R rows from `row` on, the products of which are in `sum`.
template <bool Whole, class T, int R, int NV>
GRU_XP_ALWAYS void gates_of_rows(const Forward<T>& p, index t, index row, index unit, const T* h,
                                 T* h_next, const Vec<T> (&sum)[R][NV], int first) {
    using M = Math<T>;
    const index size = p.size, left = size - unit, at = row * size + unit;
    const index of_tape = t * p.rows * size + at;
    const T* gx = p.gx + (t * p.rows + row) * 3 * size + unit;
    const Vec<T> b_hn = p.b_hn ? get<Whole>(p.b_hn + unit, left) : Vec<T>{};
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i, gx += 3 * size) {
        const Vec<T> h_here = get<Whole>(h + at + i * size, left);
        gru_xp::Gates<Vec<T>> g{};
        Vec<T> next = h_here;
        if (!p.lengths || t < p.lengths[row + i]) {
            g = gru_xp::gates<M>(get<Whole>(gx, left), get<Whole>(gx + size, left),
                                 get<Whole>(gx + 2 * size, left), sum[i][first],
                                 sum[i][first + 1], Vec<T>(sum[i][first + 2] + b_hn));
            next = gru_xp::next_state<M>(g, h_here);
        }
        put<Whole>(h_next + at + i * size, next, left);
        if (p.r) {
            put<Whole>(p.r + of_tape + i * size, g.r, left);
            put<Whole>(p.z + of_tape + i * size, g.z, left);
            put<Whole>(p.n + of_tape + i * size, g.n, left);
            put<Whole>(p.gh_n + of_tape + i * size, g.gh_n, left);
        }
    }
}

// Fetches what the gates of R rows will read and write, while their product is made. Into the
// second cache: with sizes that are powers of two all of it would fall onto few lines of the first.
template <class T, int R, int U>
GRU_XP_ALWAYS void fetch_for_gates(const Forward<T>& p, index t, index row, index unit,
                                   T* h_next) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
            const T* gx = p.gx + (t * p.rows + row + i) * 3 * p.size + unit + u * width<T>;
            for (int gate = 0; gate < 3; ++gate)
                __builtin_prefetch(gx + gate * p.size, 0, 2);
            const index at = (row + i) * p.size + unit + u * width<T>;
            __builtin_prefetch(h_next + at, 0, 2);
            if (p.r) {
                const index of_tape = t * p.rows * p.size + at;
                __builtin_prefetch(p.r + of_tape, 0, 2);
                __builtin_prefetch(p.z + of_tape, 0, 2);
                __builtin_prefetch(p.n + of_tape, 0, 2);
                __builtin_prefetch(p.gh_n + of_tape, 0, 2);
            }
        }
}

// One block of the product for R rows from `row` on and U vectors of units, and with the last one
// the gates.
template <class T, int R, int U>
inline void forward_tile(const Forward<T>& p, index t, index row, index vector,
                         const Part<T, R, 3 * U>& part, const T* h, T* h_next) {
    constexpr int w = width<T>;
    if (part.last) fetch_for_gates<T, R, U>(p, t, row, vector * w, h_next);
    Vec<T> sum[R][3 * U];
    if (!part.add(sum)) return;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
        const index unit = (vector + u) * w;
        if (p.size - unit >= w)
            gates_of_rows<true>(p, t, row, unit, h, h_next, sum, 3 * u);
        else
            gates_of_rows<false>(p, t, row, unit, h, h_next, sum, 3 * u);
    }
}

// One step of one row, for which the weights are used once.
template <class T>
inline void forward_of_row(const Forward<T>& p, Range vectors) {
    const index size = p.size;
    const T* h = p.states + (p.reverse ? size : 0);
    T* h_next = p.states + (p.reverse ? 0 : size);
    for (index v = vectors.begin; v < vectors.end; ++v) {
        const index unit = v * width<T>, left = size - unit;
        Vec<T> sum[1][3];
#pragma GCC unroll 3
        for (int gate = 0; gate < 3; ++gate)
            sum[0][gate] = multiply_transposed(h, p.weight_hh + (gate * size + unit) * size, size,
                                               left, size);
        if (left >= width<T>)
            gates_of_rows<true>(p, 0, 0, unit, h, h_next, sum, 0);
        else
            gates_of_rows<false>(p, 0, 0, unit, h, h_next, sum, 0);
    }
}

template <class T>
inline bool forward(const Forward<T>& p, Range rows, Range vectors, Range steps) {
    if (!p.packed && p.rows == 1) {
        forward_of_row(p, vectors);
        return true;
    }
    constexpr int w = width<T>, most_units = most_vectors(1) / 3;
    const index state = p.rows * p.size, stride = p.size * w, few = rows.end - rows.begin;
    // Few rows take several vectors of units at a time, to keep the multipliers busy.
    const index units = few <= 4 ? most_vectors(int(few)) / 3 : 1;
    const index groups = (vectors.end - vectors.begin + units - 1) / units;
    gru_xp::Scratch scratch;
    T* own = p.packed ? nullptr : scratch.take<T>(3 * most_units * stride);
    T* sums = scratch.take<T>((few + most_rows - 1) / most_rows * accumulators * w);
    if (!sums || (!own && !p.packed)) return false;
    for (index s = steps.begin; s < steps.end; ++s) {
        const index t = p.reverse ? p.steps - 1 - s : s;
        const T* h = p.states + (p.reverse ? t + 1 : t) * state;
        T* h_next = p.states + (p.reverse ? t : t + 1) * state;
        // Back and forth, so that a step starts with the weights that the last one ended with,
        // which are still in the cache.
        const index onward = s % 2 ? -1 : 1;
        for (index i = 0, v = s % 2 ? (groups - 1) * units : 0; i < groups;
             ++i, v += onward * units) {
            const index vector = vectors.begin + v;
            const index n = vectors.end - vector < units ? vectors.end - vector : units;
            if (own) pack_forward(own, p.weight_hh, p.size, {3 * vector, 3 * (vector + n)});
            const T* packed = own ? own : p.packed + 3 * vector * stride;
            for (index k = 0; k < p.size; k += block) {
                const bool last = p.size - k <= block;
                const index count = last ? p.size - k : block;
                const T* soon = !last              ? packed + (k + block) * w
                                : i + 1 < groups   ? packed + onward * 3 * units * stride
                                                   : nullptr;
                index tile = 0;
                for (index row = rows.begin; row < rows.end; row += most_rows, ++tile)
                    with_rows<most_rows>(rows.end - row, [&](auto r)
                                             __attribute__((always_inline)) {
                        constexpr int R = decltype(r)::value, U = most_vectors(R) / 3;
                        const T* a = h + row * p.size + k;
                        const T* b = packed + k * w;
                        T* kept = sums + tile * accumulators * w;
                        const T* fetch = tile < 3 && soon ? soon + tile * stride : nullptr;
                        if (U > 1 && n == U)
                            forward_tile<T, R, U>(
                                p, t, row, vector,
                                {a, p.size, b, stride, count, k == 0, last, kept, nullptr}, h,
                                h_next);
                        else
                            for (index u = 0; u < n; ++u)
                                forward_tile<T, R, 1>(p, t, row, vector + u,
                                                      {a, p.size, b + 3 * u * stride, stride, count,
                                                       k == 0, last, kept + 3 * R * u * w, fetch},
                                                      h, h_next);
                    });
            }
        }
    }
    return true;
}

}  // namespace GRU_XP_ISA
