// The recurrence forward: the product of a tile, and its gates while it is in registers.
#pragma once

#include "elementary.hpp"
#include "gru_xp/equations.hpp"
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

// The gates of units [unit, unit + width) of one row.
template <class T>
GRU_XP_ALWAYS void gates_of_row(const Forward<T>& p, index t, index row, index unit, bool padding,
                                const T* h, T* h_next, Vec<T> gh_r, Vec<T> gh_z, Vec<T> gh_n) {
    using M = Math<T>;
    const index left = p.size - unit;
    const Vec<T> h_here = load_upto(h + row * p.size + unit, left);
    gru_xp::Gates<Vec<T>> g{};
    Vec<T> next = h_here;
    if (!padding) {
        const T* gx = p.gx + (t * p.rows + row) * 3 * p.size + unit;
        g = gru_xp::gates<M>(load_upto(gx, left), load_upto(gx + p.size, left),
                             load_upto(gx + 2 * p.size, left), gh_r, gh_z, gh_n);
        next = gru_xp::next_state<M>(g, h_here);
    }
    store_upto(h_next + row * p.size + unit, next, left);
    if (p.r) {
        const index at = (t * p.rows + row) * p.size + unit;
        store_upto(p.r + at, g.r, left);
        store_upto(p.z + at, g.z, left);
        store_upto(p.n + at, g.n, left);
        store_upto(p.gh_n + at, g.gh_n, left);
    }
}

// Rows [row, row + R), and U vectors of units from `vector` on.
template <class T, int R, int U>
inline void forward_tile(const Forward<T>& p, index t, index row, index vector, const T* packed,
                         const T* h, T* h_next) {
    constexpr int w = width<T>;
    Vec<T> sum[R][3 * U];
    multiply<T, R, 3 * U>({h + row * p.size, p.size}, {packed, p.size * w}, p.size, true, sum);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
        const index unit = (vector + u) * w;
        const Vec<T> b_hn = p.b_hn ? load_upto(p.b_hn + unit, p.size - unit) : Vec<T>{};
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const bool padding = p.lengths && t >= p.lengths[row + i];
            gates_of_row(p, t, row + i, unit, padding, h, h_next, sum[i][3 * u],
                         sum[i][3 * u + 1], Vec<T>(sum[i][3 * u + 2] + b_hn));
        }
    }
}

template <class T>
inline void forward(const Forward<T>& p, Range rows, Range vectors, gru_xp::Barrier* barrier) {
    constexpr int w = width<T>;
    const index state = p.rows * p.size;
    gru_xp::Scratch scratch;
    constexpr int most_units = most_vectors(1) / 3;
    T* own = p.packed ? nullptr : scratch.take<T>(3 * most_units * p.size * w);
    // Few rows take several vectors of units at a time, to keep the multipliers busy.
    const index few = rows.end - rows.begin;
    const index units = few <= 4 ? most_vectors(int(few)) / 3 : 1;
    for (index s = 0; s < p.steps; ++s) {
        const index t = p.reverse ? p.steps - 1 - s : s;
        const T* h = p.states + (p.reverse ? t + 1 : t) * state;
        T* h_next = p.states + (p.reverse ? t : t + 1) * state;
        for (index v = vectors.begin; v < vectors.end;) {
            const index n = vectors.end - v < units ? 1 : units;
            const T* packed = p.packed + 3 * v * p.size * w;
            if (own) {
                pack_forward(own, p.weight_hh, p.size, {3 * v, 3 * (v + n)});
                packed = own;
            }
            for (index row = rows.begin; row < rows.end; row += most_rows)
                with_rows<most_rows>(rows.end - row, [&](auto r) __attribute__((always_inline)) {
                    constexpr int R = decltype(r)::value, U = most_vectors(R) / 3;
                    if (U > 1 && n == U)
                        forward_tile<T, R, U>(p, t, row, v, packed, h, h_next);
                    else
                        for (index u = 0; u < n; ++u)
                            forward_tile<T, R, 1>(p, t, row, v + u, packed + 3 * u * p.size * w,
                                                  h, h_next);
                });
            v += n;
        }
        if (barrier) barrier->wait();
    }
}

}  // namespace GRU_XP_ISA
