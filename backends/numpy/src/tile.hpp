// The inner part of the product: a few rows times a few vectors of columns, held in registers.
//
// Every sum in this accelerator is added in the same order, whichever thread or function computes
// it. The terms are divided into chains of `chain` terms; each chain is added with multiply-adds
// starting from zero, and then the chains are added one after another. The bits of a row therefore
// depend neither on the rows beside it nor on other threads, and a sum of many terms loses little
// precision.
#pragma once

#include "simd.hpp"

namespace GRU_XP_ISA {

constexpr index chain = 64;  // terms of a sum that are added up in one register

constexpr int most_rows = registers == 32 ? 8 : 4;
constexpr int accumulators = registers == 32 ? 24 : 12;

// Returns the largest number of vectors of columns in a tile of `rows` rows: enough to keep the
// multipliers busy, few enough to fit into the registers, and a multiple of the three gates.
constexpr int most_vectors(int rows) {
    return rows * 12 <= accumulators ? 12 : rows * 6 <= accumulators ? 6 : 3;
}

// Packed vectors of a matrix's columns, with the vectors of one row side by side.
//
// This is all the tiles need to know about weights. To support another kind of weights, such as
// 16-bit ones, write a type with the same functions.
template <class T>
struct Columns {
    const T* numbers;
    index step;  // numbers from one row to the next

    GRU_XP_ALWAYS Vec<T> at(index k, int vector) const {
        return load(numbers + k * step + vector * width<T>);
    }
    GRU_XP_ALWAYS Columns from(index k, int vector) const {
        return {numbers + k * step + vector * width<T>, step};
    }
    // Prefetches one vector of row k into the L2 cache.
    GRU_XP_ALWAYS void fetch(index k, int vector) const {
        __builtin_prefetch(numbers + k * step + vector * width<T>, 0, 2);
    }
};

// How vectors of columns are grouped for packing and for the tiles: in groups of `most`, of which
// the last may be smaller. With groups of three, if a single vector would be left over, the last
// group has four instead, which the tiles take two at a time.
struct Groups {
    index vectors;
    int most;

    index count() const {
        const bool joined = most == 3 && vectors % 3 == 1 && vectors > 1;
        return joined ? vectors / 3 : (vectors + most - 1) / most;
    }
    index begin(index group) const { return group >= count() ? vectors : group * most; }
    // Returns the group that contains a vector.
    index of(index vector) const {
        return vector / most < count() ? vector / most : count() - 1;
    }
};

// Returns the size of the widest group that a tile takes at once, for a product of `rows` rows.
inline int widest_group(index rows) { return rows <= 4 ? most_vectors(int(rows)) : 3; }

// Returns the number of rows of the next tile when `left` rows remain. Makes the last two tiles
// about the same size.
constexpr index rows_at_once(index left) {
    return left >= 2 * most_rows ? most_rows : left > most_rows ? (left + 1) / 2 : left;
}

// Adds terms [0, count) of the product of R rows of a and NV vectors of b's columns to the sums:
// that of row i and vector v is at sums + i * sums_row + v * width. With `first`, the sums count as
// zero and are not read.
//
// Element (i, k) of a is at a[i * a_row + k], or if Interleaved at a[k * most_rows + i]. With
// Ahead, also prefetches vector `ahead` of the first `count` rows of `soon`.
template <int R, int NV, bool Interleaved, bool Ahead, class T, class Weights>
GRU_XP_ALWAYS void add_terms(const T* a, index a_row, const Weights& b, index count, bool first,
                             T* sums, index sums_row, const Weights& soon, int ahead) {
    const auto each_sum = [&](auto f) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) f(sums + i * sums_row + v * width<T>, i, v);
    };
    for (index from = 0; from == 0 || from < count; from += chain) {
        const index to = count - from < chain ? count : from + chain;
        Vec<T> acc[R][NV] = {};
#pragma GCC unroll 2
        for (index k = from; k < to; ++k) {
            if constexpr (Ahead) soon.fetch(k, ahead);
            const auto x = [&](int i) __attribute__((always_inline)) {
                return splat(Interleaved ? a[k * most_rows + i] : a[i * a_row + k]);
            };
            // Hold the reused operand in registers: the columns, or if there are more vectors of
            // columns than rows, the rows.
            if constexpr (R < NV) {
                Vec<T> row[R];
#pragma GCC unroll 16
                for (int i = 0; i < R; ++i) row[i] = x(i);
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) {
                    const Vec<T> column = b.at(k, v);
#pragma GCC unroll 16
                    for (int i = 0; i < R; ++i) acc[i][v] = fma(row[i], column, acc[i][v]);
                }
            } else {
                Vec<T> column[NV];
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) column[v] = b.at(k, v);
#pragma GCC unroll 16
                for (int i = 0; i < R; ++i) {
                    const Vec<T> row = x(i);
#pragma GCC unroll 16
                    for (int v = 0; v < NV; ++v) acc[i][v] = fma(row, column[v], acc[i][v]);
                }
            }
        }
        if (first && from == 0)
            each_sum([&](T* sum, int i, int v) __attribute__((always_inline)) {
                store(sum, acc[i][v]);
            });
        else
            each_sum([&](T* sum, int i, int v) __attribute__((always_inline)) {
                store(sum, load(sum) + acc[i][v]);
            });
    }
}

template <int N>
struct Constant {
    static constexpr int value = N;
};

// Calls f(Constant<n>{}) for n = min(count, Most), at least 1.
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

// Splits n vectors of columns into tiles as wide as R rows allow. Calls f(Constant<NV>{}, v) for
// each tile, where v is its first vector and NV their number.
template <int R, class F>
GRU_XP_ALWAYS void split_vectors(int n, F f) {
    constexpr int widest = most_vectors(R);
    for (int v = 0, left = n; left > 0;) {
        const auto go = [&](auto nv) __attribute__((always_inline)) {
            f(nv, v);
            v += decltype(nv)::value;
            left -= decltype(nv)::value;
        };
        if (widest >= 12 && left >= 12)
            go(Constant<widest >= 12 ? 12 : 3>{});
        else if (widest >= 6 && left >= 6)
            go(Constant<widest >= 6 ? 6 : 3>{});
        else if (left >= 3 && left != 4)
            go(Constant<3>{});
        else if (left >= 2)
            go(Constant<2>{});
        else
            go(Constant<1>{});
    }
}

}  // namespace GRU_XP_ISA
