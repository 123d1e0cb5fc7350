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

// The same where number (k, j) is at source[k * row_stride + j].
template <class T>
inline void pack_straight(T* target, const T* source, index row_stride, index columns,
                          index count) {
    constexpr int w = width<T>;
    if (columns >= w) {
        for (index k = 0; k < count; ++k) store(target + k * w, load(source + k * row_stride));
    } else {
        for (index k = 0; k < count; ++k)
            store(target + k * w, load_first(source + k * row_stride, int(columns)));
    }
}

// Rows whose numbers (i, k) are at source[i + k * step], interleaved: most_rows numbers of each k
// together, into target[k * most_rows + i]. Rows from `rows` on are zero.
template <class T>
inline void pack_rows(T* target, const T* source, index step, index rows, index count) {
    if (rows >= most_rows) {
        for (index k = 0; k < count; ++k)
            memcpy(target + k * most_rows, source + k * step, most_rows * sizeof(T));
    } else {
        for (index k = 0; k < count; ++k)
            for (int i = 0; i < most_rows; ++i)
                target[k * most_rows + i] = i < rows ? source[i + k * step] : T(0);
    }
}

}  // namespace GRU_XP_ISA
