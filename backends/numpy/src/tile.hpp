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

// sum[i][v] = (first ? 0 : sum[i][v]) + the chain over `count` <= block terms.
//
// Number (i, k) of the rows is at a[i * a_row + k], or interleaved at a[k * most_rows + i]; vector
// v of the packed columns' row k at b[v * b_stride + k * width]. With Ahead as many vectors from
// `soon` on are fetched into the second cache.
template <class T, int R, int NV, bool Interleaved, bool Ahead = false>
GRU_XP_ALWAYS void add_chain(const T* a, index a_row, const T* b, index b_stride, index count,
                             bool first, Vec<T> (&sum)[R][NV], const T* soon = nullptr) {
    constexpr int w = width<T>;
    Vec<T> acc[R][NV] = {};
#pragma GCC unroll 2
    for (index k = 0; k < count; ++k) {
        if constexpr (Ahead) __builtin_prefetch(soon + k * w, 0, 2);
        const auto x = [&](int i) __attribute__((always_inline)) {
            return splat(Interleaved ? a[k * most_rows + i] : a[i * a_row + k]);
        };
        // What is used again lies in registers: the columns, or where there are more of them than
        // rows, the rows.
        if constexpr (R < NV) {
            Vec<T> row[R];
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) row[i] = x(i);
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) {
                const Vec<T> column = load(b + v * b_stride + k * w);
#pragma GCC unroll 16
                for (int i = 0; i < R; ++i) acc[i][v] = fma(row[i], column, acc[i][v]);
            }
        } else {
            Vec<T> column[NV];
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) column[v] = load(b + v * b_stride + k * w);
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i) {
                const Vec<T> row = x(i);
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) acc[i][v] = fma(row, column[v], acc[i][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) sum[i][v] = first ? acc[i][v] : sum[i][v] + acc[i][v];
}

// One block of a product whose sums wait in `kept` between blocks.
template <class T, int R, int NV>
struct Part {
    const T* a;
    index a_row;
    const T* b;
    index b_stride, count;
    bool first, last;
    T* kept;
    const T* soon;  // or null

    // Adds the block; true if the sums are complete, and then they are in `sum`.
    GRU_XP_ALWAYS bool add(Vec<T> (&sum)[R][NV]) const {
        constexpr int w = width<T>;
        if (!first)
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) sum[i][v] = load(kept + (i * NV + v) * w);
        constexpr bool can_fetch = R == most_rows && NV == 3;
        if (can_fetch && soon)
            add_chain<T, R, NV, false, can_fetch>(a, a_row, b, b_stride, count, first, sum, soon);
        else
            add_chain<T, R, NV, false>(a, a_row, b, b_stride, count, first, sum);
        if (!last)
#pragma GCC unroll 16
            for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) store(kept + (i * NV + v) * w, sum[i][v]);
        return last;
    }
};

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
