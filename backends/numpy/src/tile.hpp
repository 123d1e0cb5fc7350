// The product's inner part: a few rows times a few vectors of columns, held in registers.
//
// Every sum in this accelerator has one order, whoever computes it: the terms of a block of
// `block` in a chain of fused multiply-adds from zero, and the blocks one after another. So a
// row's bits depend neither on the rows beside it nor on who else computes.
#pragma once

#include "simd.hpp"

namespace GRU_XP_ISA {

constexpr index block = 512;  // terms of a sum that one chain adds up

constexpr int most_rows = registers == 32 ? 8 : 4;
constexpr int accumulators = registers == 32 ? 24 : 12;

// Vectors of columns that a tile of so many rows takes at most: as many as keep the multipliers
// busy and fit into the registers, a multiple of three gates.
constexpr int most_vectors(int rows) {
    return rows * 12 <= accumulators ? 12 : rows * 6 <= accumulators ? 6 : 3;
}

// Where a tile's rows are: number (i, k) at data[i * row + k * step].
template <class T>
struct Rows {
    const T* data;
    index row;
};

// Packed columns: vector v of row k at data[v * stride + k * width].
template <class T>
struct Columns {
    const T* data;
    index stride;
};

// sum[i][v] = (first ? 0 : sum[i][v]) + the chain over `count` <= block terms.
template <class T, int R, int NV, bool Interleaved>
GRU_XP_ALWAYS void add_chain(const T* a, index a_row, const T* b, index b_stride, index count,
                             bool first, Vec<T> (&sum)[R][NV]) {
    constexpr int w = width<T>;
    Vec<T> acc[R][NV] = {};
#pragma GCC unroll 2
    for (index k = 0; k < count; ++k) {
        Vec<T> column[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) column[v] = load(b + v * b_stride + k * w);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const Vec<T> x = splat(Interleaved ? a[k * most_rows + i] : a[i * a_row + k]);
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[i][v] = fma(x, column[v], acc[i][v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) sum[i][v] = first ? acc[i][v] : sum[i][v] + acc[i][v];
}

// sum (+)= rows (R, count) times packed columns (count, NV vectors).
template <class T, int R, int NV>
GRU_XP_ALWAYS void multiply(Rows<T> a, Columns<T> b, index count, bool first,
                            Vec<T> (&sum)[R][NV]) {
    index k = 0;
    do {
        const index n = count - k < block ? count - k : block;
        add_chain<T, R, NV, false>(a.data + k, a.row, b.data + k * width<T>, b.stride, n,
                                   first && k == 0, sum);
        k += n;
    } while (k < count);
}

template <int N>
struct Constant {
    static constexpr int value = N;
};

// f(Constant<n>) for n = count, at most `Most`.
template <int Most, class F>
GRU_XP_ALWAYS void with_rows(index count, F f) {
    if constexpr (Most > 1) {
        if (count < Most)
            with_rows<Most - 1>(count, f);
        else
            f(Constant<Most>{});
    } else {
        f(Constant<1>{});
    }
}

}  // namespace GRU_XP_ISA
