// The large products: all of a matrix's columns, a group of packed vectors at a time.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"
#include "threads.hpp"

namespace GRU_XP_ISA {

using gru_xp::Product;
using gru_xp::Range;

constexpr int group = 12;             // vectors packed at once, which stay in the second cache
constexpr index packed_rows = 1024;  // rows interleaved at once

template <class T, int R, int NV, bool Interleaved>
GRU_XP_ALWAYS void product_tile(const Product<T>& p, const T* a, index a_row, const T* b,
                                index b_stride, index k, index depth, index row, index rows,
                                index vector) {
    constexpr int w = width<T>;
    Vec<T> sum[R][NV];
    add_chain<T, R, NV, Interleaved>(a, a_row, b, b_stride, depth, true, sum);
    const bool last = k + depth == p.depth;
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
        const index column = (vector + v) * w, left = p.columns - column;
        const bool add = last && p.bias;
        const Vec<T> bias = add ? load_upto(p.bias + column, left) : Vec<T>{};
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            if (Interleaved && i >= rows) break;
            T* out = p.out + (row + i) * p.columns + column;
            Vec<T> value = sum[i][v];
            if (k > 0) value = load_upto(out, left) + value;
            if (add) value = value + bias;
            store_upto(out, value, left);
        }
    }
}

// All vectors of a group for one tile of rows, of which the last `R - rows` are not there.
template <class T, int R, bool Interleaved>
inline void product_rows(const Product<T>& p, const T* a, index a_row, const T* b, index b_stride,
                         index k, index depth, index row, index rows, index vector, int vectors) {
    constexpr int most = most_vectors(R);
    const auto tile = [&](auto nv, int v) __attribute__((always_inline)) {
        product_tile<T, R, decltype(nv)::value, Interleaved>(p, a, a_row, b + v * b_stride,
                                                             b_stride, k, depth, row, rows, vector + v);
    };
    for (int v = 0; v < vectors;) {
        int n = vectors - v;
        if constexpr (most >= 6) {
            if (n >= 6) {
                tile(Constant<6>{}, v);
                v += 6;
                continue;
            }
        }
        n = n == 4 ? 2 : n > 3 ? 3 : n;
        if (n == 3)
            tile(Constant<3>{}, v);
        else if (n == 2)
            tile(Constant<2>{}, v);
        else
            tile(Constant<1>{}, v);
        v += n;
    }
}

template <class T>
inline void pack_group(const Product<T>& p, T* packed, index stride, index k, index depth,
                       index vector, int vectors) {
    const index column = vector * width<T>;
    const T* source = p.b + k * p.b_step + column * p.b_column;
    if (p.b_column == 1) {
        pack_straight(packed, stride, source, p.b_step, p.columns - column, vectors, depth);
        return;
    }
    for (int v = 0; v < vectors; ++v) {
        const index first = v * width<T>;
        pack_transposed(packed + v * stride, source + first * p.b_column, p.b_column,
                        p.columns - column - first, depth);
    }
}

// A column times a row: each number of the result is one term, written once and row by row.
template <class T>
inline void product_of_column(const Product<T>& p, Range rows, Range vectors) {
    constexpr int w = width<T>;
    for (index row = rows.begin; row < rows.end; ++row) {
        const Vec<T> x = splat(p.a[row * p.a_row]);
        T* out = p.out + row * p.columns;
        for (index v = vectors.begin; v < vectors.end; ++v) {
            const index column = v * w, left = p.columns - column;
            // From zero on, as every sum: of -0 it makes 0.
            Vec<T> value = fma(x, load_upto(p.b + column, left), Vec<T>{});
            if (p.bias) value = value + load_upto(p.bias + column, left);
            store_upto(out + column, value, left);
        }
    }
}

// One row times a matrix whose rows lie whole.
template <class T>
inline bool product_of_row_straight(const Product<T>& p, Range vectors) {
    const index column = vectors.begin * width<T>, end = vectors.end * width<T>;
    const index columns = (end < p.columns ? end : p.columns) - column;
    gru_xp::Scratch scratch;
    T* sum = scratch.take<T>(columns);
    if (!sum) return false;
    T* out = p.out + column;
    for (index k = 0; k == 0 || k < p.depth; k += block) {
        const index depth = p.depth - k < block ? p.depth - k : block;
        T* to = k == 0 ? out : sum;
        multiply_straight(p.a + k, p.b + k * p.b_step + column, p.b_step, columns, depth, to);
        if (k > 0) add_to(out, sum, columns);
    }
    if (p.bias) add_to(out, p.bias + column, columns);
    return true;
}

// One row times a transposed matrix.
template <class T>
inline void product_of_row(const Product<T>& p, Range vectors) {
    for (index v = vectors.begin; v < vectors.end; ++v) {
        const index column = v * width<T>, left = p.columns - column;
        Vec<T> value = multiply_transposed(p.a, p.b + column * p.b_column, p.b_column, left,
                                           p.depth);
        if (p.bias) value = value + load_upto(p.bias + column, left);
        store_upto(p.out + column, value, left);
    }
}

template <class T>
inline bool product(const Product<T>& p, Range rows, Range vectors) {
    if (rows.begin == rows.end || vectors.begin == vectors.end) return true;
    if (p.rows == 1 && p.a_step == 1 && p.b_step == 1) {
        product_of_row(p, vectors);
        return true;
    }
    if (p.depth == 1 && p.b_column == 1) {
        product_of_column(p, rows, vectors);
        return true;
    }
    if (p.rows == 1 && p.a_step == 1 && p.b_column == 1 && p.depth > 0)
        return product_of_row_straight(p, vectors);
    const bool interleaved = p.a_step != 1;
    const index most_depth = p.depth < block ? p.depth : block, stride = most_depth * width<T>;
    const index all = rows.end - rows.begin;
    const index most = interleaved && all > packed_rows ? packed_rows : all;
    // A cache line more, so that the tiles' beginnings do not fall onto the same lines of a cache.
    const index tile_stride = most_rows * most_depth + 64 / index(sizeof(T));
    gru_xp::Scratch scratch;
    T* packed_b = scratch.take<T>(stride * group);
    T* packed_a = interleaved
                      ? scratch.take<T>((most + most_rows - 1) / most_rows * tile_stride)
                      : nullptr;
    if (!packed_b || (interleaved && !packed_a)) return false;
    for (index from = rows.begin; from < rows.end; from += most) {
        const index to = rows.end - from < most ? rows.end : from + most;
        for (index k = 0; k == 0 || k < p.depth; k += block) {
            const index depth = p.depth - k < block ? p.depth - k : block;
            if (interleaved)
                pack_rows(packed_a, tile_stride, p.a + k * p.a_step + from, p.a_step, to - from,
                          depth);
            for (index v = vectors.begin; v < vectors.end; v += group) {
                const int n = int(vectors.end - v < group ? vectors.end - v : group);
                pack_group(p, packed_b, stride, k, depth, v, n);
                const T* a = interleaved ? packed_a : p.a + from * p.a_row + k;
                for (index row = from; row < to; row += most_rows,
                           a += interleaved ? tile_stride : most_rows * p.a_row) {
                    if (interleaved)
                        product_rows<T, most_rows, true>(p, a, 1, packed_b, stride, k, depth, row,
                                                         to - row, v, n);
                    else
                        with_rows<most_rows>(to - row, [&](auto r)
                                                 __attribute__((always_inline)) {
                            product_rows<T, decltype(r)::value, false>(
                                p, a, p.a_row, packed_b, stride, k, depth, row, to - row, v, n);
                        });
                }
            }
        }
    }
    return true;
}

}  // namespace GRU_XP_ISA
