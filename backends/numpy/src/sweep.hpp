// The product of one step: rows times packed weights, tile by tile, and its schedule.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"
#include "tile.hpp"

namespace GRU_XP_ISA {

using gru_xp::Range;

// Terms that are added for all rows before the next ones: three vectors of so many weights stay close
// while the rows go by. A multiple of `chain`.
constexpr index block = 512;

// The rows of a product: their first `count` numbers from `first` on, the others from `rest` on.
template <class T>
struct Operand {
    const T* first;
    index first_row, count;  // numbers from one row to the next; numbers of a row
    const T* rest;
    index rest_row, rest_count;

    index depth() const { return count + rest_count; }
};

// Packed weights, all vectors of columns from their row `row` on, of `depth` rows.
template <class T>
struct Packed {
    using Kind = Columns<T>;
    const T* numbers;
    index depth, row;

    // Some vectors of a group from number `vector` on.
    Kind columns(Range group, index vector, int) const {
        const index step = (group.end - group.begin) * width<T>;
        const Kind all{numbers + group.begin * depth * width<T> + row * step, step};
        return all.from(0, int(vector - group.begin));
    }
    // The same, for who has them fetched before they are used.
    Kind next(Range group, index vector, int vectors) const {
        return columns(group, vector, vectors);
    }
};

// Apart, so that each tile has the registers for itself.
template <int R, int NV, bool Ahead, class T, class Weights>
__attribute__((noinline)) void tile(const T* a, index a_row, const Weights& b, index count,
                                    bool first, T* sums, index sums_row, const Weights& soon,
                                    int ahead) {
    add_terms<R, NV, false, Ahead>(a, a_row, b, count, first, sums, sums_row, soon, ahead);
}

// R rows times n vectors.
template <int R, class T, class Weights>
inline void tiles(const T* a, index a_row, const Weights& b, int n, index count, bool first, T* sums,
                  const Weights* soon, int ahead) {
    split_vectors<R>(n, [&](auto nv, int v) __attribute__((always_inline)) {
        constexpr int NV = decltype(nv)::value;
        // Only where the weights are used for many rows does who computes have the time.
        constexpr bool can_fetch = R == most_rows && NV == 3;
        T* kept = sums + v * width<T>;
        if (can_fetch && soon)
            tile<R, NV, can_fetch>(a, a_row, b.from(0, v), count, first, kept, n * width<T>, *soon,
                                   ahead);
        else
            tile<R, NV, false>(a, a_row, b.from(0, v), count, first, kept, n * width<T>, b, 0);
    });
}

// Numbers of sums that a sweep over so many rows keeps, whatever the groups.
template <class T>
constexpr index kept_sums(index rows) {
    return rows * 12 * width<T>;
}

// f(i, v, sum) for the sums of a tile's rows i and vectors v, as `sweep` hands them out.
template <class T, class F>
GRU_XP_ALWAYS void each_sum(index rows, int vectors, const T* sums, F f) {
    for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 4
        for (index i = 0; i < rows; ++i) f(i, v, load(sums + (i * vectors + v) * width<T>));
}

// For each tile of rows and group of vectors of columns, the sums of all terms, handed to
//
//     step.finish(row, rows, vector, vectors, sums)
//
// where the sum of row + i and vector + v is at sums + (i * vectors + v) * width. Before the last
// terms are added it is told by step.fetch(row, rows, vector, vectors).
//
// `columns` are the vectors wanted, from a multiple of three on. `back` goes through the groups from
// the last one, so that a step starts with the weights that the one before ended with, which are still
// in the cache.
template <class T, class Weights, class Step>
inline void sweep(const Operand<T>& a, const Weights& weights, Groups groups, Range rows,
                  Range columns, bool back, T* sums, const Step& step) {
    if (columns.begin == columns.end) return;
    constexpr int w = width<T>;
    const index depth = a.depth();
    const bool many = rows.end - rows.begin > most_rows;
    const index first = groups.of(columns.begin), last_one = groups.of(columns.end - 1);
    // What is wanted of a group.
    const auto part = [&](index g) {
        const index begin = groups.begin(g), end = groups.begin(g + 1);
        return Range{begin < columns.begin ? columns.begin : begin,
                     end < columns.end ? end : columns.end};
    };
    const auto whole = [&](index g) { return Range{groups.begin(g), groups.begin(g + 1)}; };
    for (index i = first; i <= last_one; ++i) {
        const index g = back ? last_one - (i - first) : i;
        const Range wanted = part(g);
        const index vector = wanted.begin;
        const int n = int(wanted.end - vector);
        const auto here = weights.columns(whole(g), vector, n);
        for (index k = 0, count; k < depth; k += count) {
            const bool rest = k >= a.count;
            const index left = (rest ? depth : a.count) - k;
            count = many && left > block ? block : left;
            const bool last = k + count == depth;
            auto soon = here.from(k + count, 0);
            // Who has them fetched does so a vector of each row at a time, for three tiles.
            bool fetches = many && n <= 4 && !last;
            if (many && n <= 4 && last && i < last_one) {
                const index after = back ? g - 1 : g + 1;
                const Range next = part(after);
                soon = weights.next(whole(after), next.begin, int(next.end - next.begin));
                fetches = true;
            }
            index offset = 0;
            int number = 0;
            for (index row = rows.begin, R; row < rows.end; row += R, ++number) {
                R = rows_at_once(rows.end - row);
                if (last) step.fetch(row, R, vector, n);
                T* kept = sums + offset;
                const T* at = rest ? a.rest + row * a.rest_row + (k - a.count)
                                   : a.first + row * a.first_row + k;
                const auto* fetched = fetches && number < 3 ? &soon : nullptr;
                with_rows<most_rows>(R, [&](auto r) __attribute__((always_inline)) {
                    tiles<decltype(r)::value>(at, rest ? a.rest_row : a.first_row,
                                              here.from(k, 0), n, count, k == 0, kept, fetched,
                                              number);
                });
                if (last) step.finish(row, R, vector, n, kept);
                // Sums that wait for more terms each have their place.
                if (depth > block || a.rest_count > 0) offset += R * n * w;
            }
        }
    }
}

}  // namespace GRU_XP_ISA
