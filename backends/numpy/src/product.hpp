// The large products. They pack a block of b's rows at a time and use it for all rows of a. Some
// small products use b unpacked.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"
#include "sweep.hpp"
#include "threads.hpp"

namespace GRU_XP_ISA {

using gru_xp::Product;
using gru_xp::Range;

constexpr index rows_in_cache = 256;  // rows of a whose terms of one block stay in the L2 cache

// Adds `depth` terms to one tile of the result, and the bias after the last terms. A tile that lies
// completely inside the result is accumulated there; any other one in a local array. If
// Interleaved, only the first `rows` of the R rows exist when `rows` < R.
template <int R, int NV, bool Interleaved, class T>
__attribute__((noinline)) void product_tile(const Product<T>& p, const T* a, const Columns<T>& b,
                                            index k, index depth, index row, index rows,
                                            index vector) {
    constexpr int w = width<T>;
    const index first = vector * w, left = p.columns - first;
    const T* bias = k + depth == p.depth && p.bias ? p.bias + first : nullptr;
    T* out = p.out + row * p.columns + first;
    if (left >= NV * w && (!Interleaved || rows >= R)) {
        add_terms<R, NV, Interleaved, false>(a, p.a_row, b, depth, k == 0, out, p.columns, b, 0);
        if (!bias) return;
        for (int i = 0; i < R; ++i, out += p.columns)
#pragma GCC unroll 12
            for (int v = 0; v < NV; ++v) store(out + v * w, load(out + v * w) + load(bias + v * w));
        return;
    }
    T sums[R * NV * w];
    const auto each = [&](auto f) __attribute__((always_inline)) {
        for (int i = 0; i < R && (!Interleaved || i < rows); ++i)
            for (int v = 0; v < NV; ++v)
                f(sums + (i * NV + v) * w, out + i * p.columns + v * w, left - v * w, v);
    };
    if (k > 0)
        each([](T* sum, T* at, index n, int) __attribute__((always_inline)) {
            store(sum, load_upto(at, n));
        });
    add_terms<R, NV, Interleaved, false>(a, p.a_row, b, depth, k == 0, sums, NV * w, b, 0);
    each([&](T* sum, T* at, index n, int v) __attribute__((always_inline)) {
        Vec<T> value = load(sum);
        if (bias) value = value + load_upto(bias + v * w, n);
        store_upto(at, value, n);
    });
}

// The same for one group of vectors, in tiles as wide as R rows allow.
template <int R, bool Interleaved, class T>
inline void product_rows(const Product<T>& p, const T* a, const Columns<T>& b, index k, index depth,
                         index row, index rows, index vector, int vectors) {
    split_vectors<R>(vectors, [&](auto nv, int v) __attribute__((always_inline)) {
        product_tile<R, decltype(nv)::value, Interleaved>(p, a, b.from(0, v), k, depth, row, rows,
                                                          vector + v);
    });
}

// Packs rows [k, k + depth) of a group of vectors of b's columns into `packed`.
template <class T>
inline Columns<T> pack_group(const Product<T>& p, T* packed, index k, index depth, index vector,
                             int vectors) {
    constexpr int w = width<T>;
    const index column = vector * w, step = vectors * w;
    const T* source = p.b + k * p.b_step + column * p.b_column;
    if (p.b_column == 1)
        pack_straight(packed, step, source, p.b_step, p.columns - column, vectors, depth);
    else
        for (int v = 0; v < vectors; ++v)
            pack_transposed(packed + v * w, step, source + v * w * p.b_column, p.b_column,
                            p.columns - column - v * w, depth);
    return {packed, step};
}

// A column times a row: each number of the result is a single term. The result is written once, row
// by row.
template <class T>
inline void product_of_column(const Product<T>& p, Range rows, Range vectors) {
    constexpr int w = width<T>;
    for (index row = rows.begin; row < rows.end; ++row) {
        const Vec<T> x = splat(p.a[row * p.a_row]);
        T* out = p.out + row * p.columns;
        for (index v = vectors.begin; v < vectors.end; ++v) {
            const index column = v * w, left = p.columns - column;
            // Add to zero, as in all other sums: this turns -0 into 0.
            Vec<T> value = fma(x, load_upto(p.b + column, left), Vec<T>{});
            if (p.bias) value = value + load_upto(p.bias + column, left);
            store_upto(out + column, value, left);
        }
    }
}

// One row times a matrix with contiguous rows, which is used unpacked. False if out of memory.
template <class T>
inline bool product_of_row_straight(const Product<T>& p, Range vectors) {
    const index column = vectors.begin * width<T>, end = vectors.end * width<T>;
    const index columns = (end < p.columns ? end : p.columns) - column;
    gru_xp::Scratch scratch;
    T* sum = scratch.take<T>(columns);
    if (!sum) return false;
    T* out = p.out + column;
    for (index k = 0; k == 0 || k < p.depth; k += chain) {
        const index depth = p.depth - k < chain ? p.depth - k : chain;
        T* to = k == 0 ? out : sum;
        multiply_straight(p.a + k, p.b + k * p.b_step + column, p.b_step, columns, depth, to);
        if (k > 0) add_to(out, sum, columns);
    }
    if (p.bias) add_to(out, p.bias + column, columns);
    return true;
}

// R rows, from number `row` on, times a transposed matrix, which is used unpacked.
template <int R, class T>
inline void product_of_rows(const Product<T>& p, index row, Range vectors) {
    Vec<T> sums[R];
    for (index v = vectors.begin; v < vectors.end; ++v) {
        const index column = v * width<T>, left = p.columns - column;
        multiply_transposed<R>(p.a + row * p.a_row, p.a_row, p.b + column * p.b_column, p.b_column,
                               left, p.depth, sums);
        for (int i = 0; i < R; ++i) {
            if (p.bias) sums[i] = sums[i] + load_upto(p.bias + column, left);
            store_upto(p.out + (row + i) * p.columns + column, sums[i], left);
        }
    }
}

template <class T>
inline bool product(const Product<T>& p, Range rows, Range vectors) {
    if (rows.begin == rows.end || vectors.begin == vectors.end) return true;
    if (rows.end - rows.begin <= few_rows && p.a_step == 1 && p.b_step == 1) {
        with_rows<few_rows>(rows.end - rows.begin, [&](auto r) __attribute__((always_inline)) {
            product_of_rows<decltype(r)::value>(p, rows.begin, vectors);
        });
        return true;
    }
    if (p.depth == 1 && p.b_column == 1) {
        product_of_column(p, rows, vectors);
        return true;
    }
    if (p.rows == 1 && p.a_step == 1 && p.b_column == 1 && p.depth > 0)
        return product_of_row_straight(p, vectors);
    const bool interleaved = p.a_step != 1;
    const index all = rows.end - rows.begin, at_once = all < rows_in_cache ? all : rows_in_cache;
    const index most_depth = p.depth < block ? p.depth : block;
    const Groups groups{vectors.end - vectors.begin, widest_group(all)};
    // If all rows are taken at once, a group is no longer needed when the next one is packed, so
    // there is memory for one group. It may have one vector more than `most` (see Groups).
    const index packed = all == at_once ? groups.most + 1 : groups.vectors;
    // One extra cache line, so that the beginnings of the tiles fall into different cache sets.
    const index tile_stride = most_rows * most_depth + 64 / index(sizeof(T));
    gru_xp::Scratch scratch;
    T* packed_b = scratch.take<T>(packed * most_depth * width<T>);
    T* packed_a = interleaved
                      ? scratch.take<T>((at_once + most_rows - 1) / most_rows * tile_stride)
                      : nullptr;
    if (!packed_b || (interleaved && !packed_a)) return false;
    for (index k = 0; k == 0 || k < p.depth; k += block) {
        const index depth = p.depth - k < block ? p.depth - k : block;
        for (index from = rows.begin; from < rows.end; from += at_once) {
            const index to = rows.end - from < at_once ? rows.end : from + at_once;
            if (interleaved)
                pack_rows(packed_a, tile_stride, p.a + k * p.a_step + from, p.a_step, to - from,
                          depth);
            for (index g = 0; g < groups.count(); ++g) {
                const index first = groups.begin(g), v = vectors.begin + first;
                const int n = int(groups.begin(g + 1) - first);
                T* here = packed_b + (all == at_once ? 0 : first * depth * width<T>);
                const Columns<T> b = from == rows.begin ? pack_group(p, here, k, depth, v, n)
                                                        : Columns<T>{here, n * width<T>};
                const T* a = packed_a;
                for (index row = from, R; row < to; row += R, a += tile_stride) {
                    R = interleaved ? most_rows : rows_at_once(to - row);
                    if (interleaved)
                        product_rows<most_rows, true>(p, a, b, k, depth, row, to - row, v, n);
                    else
                        with_rows<most_rows>(R, [&](auto r) __attribute__((always_inline)) {
                            product_rows<decltype(r)::value, false>(p, p.a + row * p.a_row + k, b, k,
                                                                    depth, row, to - row, v, n);
                        });
                }
            }
        }
    }
    return true;
}

}  // namespace GRU_XP_ISA
