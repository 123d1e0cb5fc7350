// Packs matrices into the layout that the tiles read, and multiplies weights without packing them.
#pragma once

#include "simd.hpp"
#include "tile.hpp"

namespace GRU_XP_ISA {

// Loads up to `width` rows of one vector of columns from a transposed matrix, such as weights
// (3H, H): element (k, j) is at source[k + j * column_stride]. Columns from `columns` on and rows
// from `count` on are zero.
template <class T>
GRU_XP_ALWAYS void transposed_rows(const T* source, index column_stride, index columns, index count,
                                   Vec<T> (&row)[width<T>]) {
    constexpr int w = width<T>;
    if (columns >= w && count >= w) {
        load_transposed(source, column_stride, row);
        return;
    }
    T edge[w * w];
    for (int j = 0; j < w; ++j)
        store(edge + j * w,
              j < columns ? load_upto(source + j * column_stride, count) : Vec<T>{});
    load_transposed(edge, w, row);
}

// Packs all `count` rows of one vector of columns, as in `transposed_rows`: element (k, j) goes to
// target[k * step + j].
template <class T>
inline void pack_transposed(T* target, index step, const T* source, index column_stride,
                            index columns, index count) {
    constexpr int w = width<T>;
    for (index k = 0; k < count; k += w) {
        Vec<T> row[w];
        transposed_rows(source + k, column_stride, columns, count - k, row);
        if (count - k >= w) {
#pragma GCC unroll 16
            for (int i = 0; i < w; ++i) store(target + (k + i) * step, row[i]);
        } else {
            for (int i = 0; i < count - k; ++i) store(target + (k + i) * step, row[i]);
        }
    }
}

// Up to this many rows, multiplying by unpacked weights is faster than packing them first.
constexpr int few_rows = 4;

// Adds C chains, starting at term `from`, to sum[i], the sum of all terms before `from`. For
// from == 0, sets sum[i]. Each chain has `terms` <= chain terms. Whole requires a full vector of
// columns and full chains; C > 1 requires Whole.
template <int R, int C, bool Whole, class T>
GRU_XP_ALWAYS void add_transposed(const T* x, index x_row, const T* source, index column_stride,
                                  index columns, index from, index terms, Vec<T> (&sum)[R]) {
    constexpr int w = width<T>;
    Vec<T> acc[C][R] = {};
    const index end = Whole ? chain : terms;
    for (index k = 0; k < end; k += w)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) {
            const index at = from + c * chain + k;
            Vec<T> row[w];
            if constexpr (Whole)
                load_transposed(source + at, column_stride, row);
            else
                transposed_rows(source + at, column_stride, columns, terms - k, row);
            const auto add = [&](int j) __attribute__((always_inline)) {
#pragma GCC unroll 4
                for (int i = 0; i < R; ++i)
                    acc[c][i] = fma(splat(x[i * x_row + at + j]), row[j], acc[c][i]);
            };
            if (Whole || terms - k >= w) {
#pragma GCC unroll 16
                for (int j = 0; j < w; ++j) add(j);
            } else {
                for (int j = 0; j < terms - k; ++j) add(j);
            }
        }
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i)
            sum[i] = from + c == 0 ? acc[c][i] : sum[i] + acc[c][i];
}

// sum[i] = row i of x (R, count) times one vector of columns of a transposed matrix, as above.
template <int R, class T>
inline void multiply_transposed(const T* x, index x_row, const T* source, index column_stride,
                                index columns, index count, Vec<T> (&sum)[R]) {
    // Each term of a chain waits for the previous one. With short vectors and few rows, a second
    // chain hides that latency.
    constexpr int C = R <= 2 && vector_bytes <= 32 ? 2 : 1;
    if (count == 0)
        for (int i = 0; i < R; ++i) sum[i] = Vec<T>{};
    for (index from = 0, left; (left = count - from) > 0; from += left) {
        const auto add = [&](auto chains, auto whole, index terms) __attribute__((always_inline)) {
            constexpr int n = decltype(chains)::value;
            add_transposed<R, n, decltype(whole)::value>(x, x_row, source, column_stride, columns,
                                                         from, terms, sum);
            left = n * terms;
        };
        const bool whole = columns >= width<T>;
        if (whole && left >= C * chain)
            add(Constant<C>{}, std::true_type{}, chain);
        else if (whole && left >= chain)
            add(Constant<1>{}, std::true_type{}, chain);
        else
            add(Constant<1>{}, std::false_type{}, left < chain ? left : chain);
    }
}

// Computes one chain: sum[j] is the sum of x[k] times element (k, j) of a matrix over
// `count` <= chain values of k. Element (k, j) is at source[k * row_stride + j] and is used only
// once. Takes several rows at a time and reads each from start to end, the fastest way to read
// memory.
template <class T>
inline void multiply_straight(const T* x, const T* source, index row_stride, index columns,
                              index count, T* sum) {
    constexpr int w = width<T>, some = 8;
    for (index k = 0; k < count; k += some)
        with_rows<some>(count - k, [&](auto r) __attribute__((always_inline)) {
            constexpr int R = decltype(r)::value;
            const T* rows = source + k * row_stride;
            for (index j = 0; j < columns; j += w) {
                const index left = columns - j;
                Vec<T> acc = k == 0 ? Vec<T>{} : load_upto(sum + j, left);
#pragma GCC unroll 8
                for (int i = 0; i < R; ++i)
                    acc = fma(splat(x[k + i]), load_upto(rows + i * row_stride + j, left), acc);
                store_upto(sum + j, acc, left);
            }
        });
}

// total[j] += sum[j]
template <class T>
inline void add_to(T* total, const T* sum, index count) {
    for (index j = 0; j < count; j += width<T>)
        store_upto(total + j, load_upto(total + j, count - j) + load_upto(sum + j, count - j),
                   count - j);
}

// Packs vectors [vector, vector + vectors) of the gates' columns as one group, from weights
// (3 size, depth). With `side_by_side`, the vectors of the three gates of the same units are
// neighbours; otherwise all vectors of r come first, then those of z, then those of n.
template <class T>
inline void pack_gates(T* target, const T* weights, index size, index depth, bool side_by_side,
                       index vector, int vectors) {
    constexpr int w = width<T>;
    const index units = (size + w - 1) / w;
    for (index v = vector; v < vector + vectors; ++v) {
        const index gate = side_by_side ? v % 3 : v / units;
        const index unit = (side_by_side ? v / 3 : v % units) * w;
        pack_transposed(target + (v - vector) * w, vectors * w, weights + (gate * size + unit) * depth,
                        depth, size - unit, depth);
    }
}

// Packs `vectors` vectors of columns of a row-major matrix: element (k, j) is at
// source[k * row_stride + j], and row k of vector v goes to target[k * step + v * width]. Works row
// by row, because the elements of a column may lie on as many pages as there are rows.
template <class T>
inline void pack_straight(T* target, index step, const T* source, index row_stride, index columns,
                          int vectors, index count) {
    constexpr int w = width<T>;
    for (index k = 0; k < count; ++k)
        for (int v = 0; v < vectors; ++v)
            store(target + k * step + v * w,
                  load_upto(source + k * row_stride + v * w, columns - v * w));
}

// Packs rows, whose element (i, k) is at source[i + k * step], interleaved in tiles of `most_rows`
// rows: element (i, k) of a tile goes to target[tile * stride + k * most_rows + i]. Rows missing
// from the last tile are zero.
template <class T>
inline void pack_rows(T* target, index stride, const T* source, index step, index rows,
                      index count) {
    for (index k = 0; k < count; ++k) {
        const T* from = source + k * step;
        T* to = target + k * most_rows;
        index row = 0;
        for (; row + most_rows <= rows; row += most_rows, to += stride)
            memcpy(to, from + row, most_rows * sizeof(T));
        if (row < rows)
            for (int i = 0; i < most_rows; ++i) to[i] = row + i < rows ? from[row + i] : T(0);
    }
}

}  // namespace GRU_XP_ISA
