// Matrices rearranged for the tiles.
#pragma once

#include "simd.hpp"
#include "tile.hpp"

namespace GRU_XP_ISA {

// One vector of columns, number (k, j) of which is at source[k + j * column_stride] (a transposed
// matrix, such as weights (3H, H)), into target[k * width + j]. Columns from `columns` on are zero.
template <class T>
inline void pack_transposed(T* target, const T* source, index column_stride, index columns,
                            index count) {
    constexpr int w = width<T>;
    for (index k = 0; k < count; k += w) {
        const index n = count - k < w ? count - k : w;
        const T* from = source + k;
        index stride = column_stride;
        T edge[w * w];
        if (columns < w || n < w) {
            for (int j = 0; j < w; ++j)
                store(edge + j * w, j < columns ? load_upto(from + j * stride, n) : Vec<T>{});
            from = edge;
            stride = w;
        }
        Vec<T> column[w];
        load_transposed(from, stride, column);
        if (n == w) {
#pragma GCC unroll 16
            for (int i = 0; i < w; ++i) store(target + (k + i) * w, column[i]);
        } else {
            for (int i = 0; i < n; ++i) store(target + (k + i) * w, column[i]);
        }
    }
}

// `vectors` of columns, number (k, j) of which is at source[k * row_stride + j], vector v into
// target + v * stride. Row by row: a column's numbers lie on as many pages as there are rows.
template <class T>
inline void pack_straight(T* target, index stride, const T* source, index row_stride, index columns,
                          int vectors, index count) {
    constexpr int w = width<T>;
    for (index k = 0; k < count; ++k)
        for (int v = 0; v < vectors; ++v)
            store(target + v * stride + k * w,
                  load_upto(source + k * row_stride + v * w, columns - v * w));
}

// Rows whose numbers (i, k) are at source[i + k * step], interleaved: those of most_rows rows and
// of one k together, tile after tile, at target[tile * stride + k * most_rows + i]. Rows that are
// missing from the last tile are zero.
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
