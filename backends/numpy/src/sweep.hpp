// The product of one step, rows times packed weights, and the order of its tiles.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"
#include "tile.hpp"

namespace GRU_XP_ISA {

using gru_xp::Range;

// Number of terms that are added for all rows before the next terms. Three vectors of so many
// weights stay in a near cache while all rows use them. A multiple of `chain`.
constexpr index block = 512;

// The left operand of a product. The first `count` numbers of each row are in the matrix at
// `first`, the other `rest_count` numbers in the matrix at `rest`.
template <class T>
struct Operand {
    const T* first;
    index first_row, count;  // distance between rows, numbers per row
    const T* rest;
    index rest_row, rest_count;

    index depth() const { return count + rest_count; }
};

// Packed weights with `depth` rows, of which the product uses those from number `row` on.
template <class T>
struct Packed {
    using Kind = Columns<T>;
    const T* numbers;
    index depth, row;

    // The vectors of a group from number `vector` on.
    Kind columns(Range group, index vector, int) const {
        const index step = (group.end - group.begin) * width<T>;
        const Kind all{numbers + group.begin * depth * width<T> + row * step, step};
        return all.from(0, int(vector - group.begin));
    }
    // The same, for prefetching.
    Kind next(Range group, index vector, int vectors) const {
        return columns(group, vector, vectors);
    }
};

// add_terms as a function of its own, so that each tile can use all registers.
template <int R, int NV, bool Ahead, class T, class Weights>
__attribute__((noinline)) void tile(const T* a, index a_row, const Weights& b, index count,
                                    bool first, T* sums, index sums_row, const Weights& soon,
                                    int ahead) {
    add_terms<R, NV, false, Ahead>(a, a_row, b, count, first, sums, sums_row, soon, ahead);
}

// Adds `count` terms to the sums of R rows and n vectors. Unless `soon` is null, the tile may
// prefetch vector `ahead` of `count` rows of *soon.
template <int R, class T, class Weights>
inline void tiles(const T* a, index a_row, const Weights& b, int n, index count, bool first, T* sums,
                  const Weights* soon, int ahead) {
    split_vectors<R>(n, [&](auto nv, int v) __attribute__((always_inline)) {
        constexpr int NV = decltype(nv)::value;
        // Only where the weights are used for many rows is there time to prefetch, so only tiles of
        // this size do.
        constexpr bool can_fetch = R == most_rows && NV == 3;
        T* kept = sums + v * width<T>;
        if (can_fetch && soon)
            tile<R, NV, can_fetch>(a, a_row, b.from(0, v), count, first, kept, n * width<T>, *soon,
                                   ahead);
        else
            tile<R, NV, false>(a, a_row, b.from(0, v), count, first, kept, n * width<T>, b, 0);
    });
}

// Size of the `sums` buffer that `sweep` needs for so many rows, for groups of any width.
template <class T>
constexpr index kept_sums(index rows) {
    return rows * 12 * width<T>;
}

// Calls f(i, v, sum) for each row i and vector v of the sums that `sweep` passes to `finish`.
template <class T, class F>
GRU_XP_ALWAYS void each_sum(index rows, int vectors, const T* sums, F f) {
    for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 4
        for (index i = 0; i < rows; ++i) f(i, v, load(sums + (i * vectors + v) * width<T>));
}

// Multiplies `rows` of a by the weights. For each tile of rows and each group of vectors of
// columns, passes the complete sums to
//
//     step.finish(row, rows, vector, vectors, sums)
//
// The sum of row + i and vector + v is at sums + (i * vectors + v) * width. Before the last terms
// of a tile are added, calls step.fetch(row, rows, vector, vectors), which may prefetch what
// `finish` uses.
//
// `columns` is the range of vectors to compute; it begins at a multiple of three. With `back`, the
// groups are taken from last to first. The recurrences reverse the order at every step, so that a
// step begins with the weights that the previous one ended with, which are still in the cache.
template <class T, class Weights, class Step>
inline void sweep(const Operand<T>& a, const Weights& weights, Groups groups, Range rows,
                  Range columns, bool back, T* sums, const Step& step) {
    if (columns.begin == columns.end) return;
    constexpr int w = width<T>;
    const index depth = a.depth();
    const bool many = rows.end - rows.begin > most_rows;
    const index first = groups.of(columns.begin), last_one = groups.of(columns.end - 1);
    // The vectors of group g that are in `columns`.
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
            // The weights needed next are prefetched by the first three tiles of rows: each tile
            // prefetches one vector of every row.
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
                // Incomplete sums of different tiles must not share memory.
                if (depth > block || a.rest_count > 0) offset += R * n * w;
            }
        }
    }
}

}  // namespace GRU_XP_ISA
