// The recurrent product of a step: the state, or backward the gradients of the gates, times the
// weights of this block. The warps of the block share it.
#pragma once

#include "share.cuh"

namespace {

// The part of the product that one warp computes, as held by one lane: a tile of rows and units,
// and one of the splits of the terms.
template <int Gates>
struct Part {
    static constexpr int columns = Gates * Tile::across;
    int split, unit, first_row;  // indices within the block
    typename Tile::template Sums<columns> sums;

    // Offset of the g-th 8 columns of the tile from its first column. The columns of a block are
    // its gates times its units.
    __device__ static int column(const Share& s, int g) {
        return g / Tile::across * s.units + g % Tile::across * tile_columns;
    }

    // Loads blocks of terms k, k + 1, ... of `left`, which other thread blocks have written. The
    // loads bypass the L1 cache, which is not coherent. `a` keeps its value for rows that do not
    // exist and for blocks from `end` on; `Whole` says that there are none of the latter.
    template <bool Whole, int Ahead>
    __device__ void load_blocks(uint4 (&a)[Ahead][Tile::loads], const Share& s, const T* left,
                                int k, int end) const {
        const T* from = left + (first_row * s.blocks + k * Tile::rows) * block_terms;
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
#pragma unroll
            for (int i = 0; i < Tile::loads; ++i) {
                const T* panel = from + j * Tile::rows * block_terms;
                if ((Whole || k + j < end) && first_row + Tile::row(i) < s.rows)
                    a[j][i] = __ldcg(reinterpret_cast<const uint4*>(panel) + Tile::load_at(i));
            }
        }
    }

    template <int Ahead>
    __device__ void load(uint4 (&a)[Ahead][Tile::loads], const Share& s, const T* left, int k,
                         int end) const {
        if (k + Ahead <= end)
            load_blocks<true>(a, s, left, k, end);
        else
            load_blocks<false>(a, s, left, k, end);
    }

    template <bool Whole, int Ahead>
    __device__ void add_blocks(const uint4 (&a)[Ahead][Tile::loads], const Share& s,
                               const T* weights, int k, int end) {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (!Whole && k + j >= end) break;
            uint4 b[columns];
#pragma unroll
            for (int g = 0; g < columns; ++g)
                b[g] = load_kept(weights + column(s, g) * s.stride + (k + j) * block_terms);
            Tile::add(sums, a[j], b);
        }
    }

    template <int Ahead>
    __device__ void add_resident(const uint4 (&a)[Ahead][Tile::loads], const Share& s,
                                 const T* weights, int k, int end) {
        // With more columns, the compiler would load the weights of too many blocks at once, and
        // spill registers.
        constexpr bool fit = Ahead == 1 || columns <= (streams ? 4 : 6);
        if (fit && k + Ahead <= end)
            add_blocks<true>(a, s, weights, k, end);
        else
            add_blocks<false>(a, s, weights, k, end);
    }

    // Multiplies by the weights in shared memory. One half of the registers is loaded while the
    // other is used.
    __device__ void multiply_resident(const Share& s, const T* left, int begin, int end) {
        const T* weights = s.weights + (unit + group()) * s.stride +
                           (split * s.resident - begin) * block_terms + place() * lane_terms;
        uint4 a[2][Tile::ahead][Tile::loads] = {};
        load(a[0], s, left, begin, end);
        for (int k = begin; k < end; k += 2 * Tile::ahead) {
            load(a[1], s, left, k + Tile::ahead, end);
            add_resident(a[0], s, weights, k, end);
            load(a[0], s, left, k + 2 * Tile::ahead, end);
            add_resident(a[1], s, weights, k + Tile::ahead, end);
        }
    }

    // Both factors of a block of terms whose weights are not in shared memory.
    struct Streamed {
        uint4 a[1][Tile::loads], b[columns];
    };

    template <int Ahead>
    __device__ void load_streamed(Streamed (&x)[Ahead], const Share& s, const T* left,
                                  const Weights& weights, int k, int end) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (k + j >= end) break;
#pragma unroll
            for (int g = 0; g < columns; ++g)
                x[j].b[g] = weights.in_panel(column(s, g) + unit + group(), k + j, place());
            load_blocks<true>(x[j].a, s, left, k + j, end);
        }
    }

    template <int Ahead>
    __device__ void add_streamed(const Streamed (&x)[Ahead], int k, int end) {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (k + j >= end) break;
            uint4 b[columns];
#pragma unroll
            for (int g = 0; g < columns; ++g) b[g] = Tile::weights(x[j].b[g]);
            Tile::add(sums, x[j].a[0], b);
        }
    }

    // Multiplies by the weights in global memory, also with two halves of the registers.
    __device__ void multiply_streamed(const Share& s, const T* left, const Weights& weights,
                                      int begin, int end) {
        // Enough blocks for at least 8 loads in each half.
        constexpr int both = columns + Tile::loads, ahead = (both + 7) / both;
        Streamed x[2][ahead] = {};
        load_streamed(x[0], s, left, weights, begin, end);
        for (int k = begin; k < end; k += 2 * ahead) {
            load_streamed(x[1], s, left, weights, k + ahead, end);
            add_streamed(x[0], k, end);
            load_streamed(x[0], s, left, weights, k + 2 * ahead, end);
            add_streamed(x[1], k + ahead, end);
        }
    }

    __device__ void multiply(const Share& s, const T* left, const Weights& weights) {
        const int begin = first_of(s, split), end = first_of(s, split + 1);
        const int kept = min(begin + s.resident, end);
        multiply_resident(s, left, begin, kept);
        if (streams) multiply_streamed(s, left, weights, kept, end);
    }

    __device__ void leave(const Share& s, bool first) const {
        Tile::finish(sums, [&](int g, int row, int of_tile, Tile::Stored sum) {
            const int of_block = first_row + row;
            if (of_block >= s.rows) return;
            const int of_slot = split % s.slots * s.rows + of_block;
            float* of_row = s.sums + (of_slot * s.row_sums + column(s, g) + unit + of_tile);
            Tile::Stored& kept = *reinterpret_cast<Tile::Stored*>(of_row);
            kept = first ? sum : plus(kept, sum);
        });
    }
};

// Computes the product of `left` and the weights of this block, and stores it in s.sums as `slots`
// summands.
template <int Gates>
__device__ void product(const Share& s, const T* left, const Weights& weights) {
    const int row_tiles = (s.rows + Tile::rows - 1) / Tile::rows;
    const int unit_tiles = s.units / (Tile::across * tile_columns);
    const int parts = row_tiles * unit_tiles * s.splits, turns = s.splits / s.slots;
    // `splits` and `warps` are powers of two, so that one round computes all splits of a sum.
    for (int round = 0; round < parts; round += warps) {
        const int item = round + int(threadIdx.x) / warp_lanes;
        Part<Gates> part;
        part.split = item % s.splits;
        part.unit = item / s.splits % unit_tiles * (Tile::across * tile_columns);
        part.first_row = item / s.splits / unit_tiles * Tile::rows;
        if (item < parts) part.multiply(s, left, weights);
        for (int turn = 0; turn < turns; ++turn) {
            if (item < parts && part.split / s.slots == turn) part.leave(s, turn == 0);
            if (turn + 1 < turns) __syncthreads();
        }
    }
    __syncthreads();
}

// The products of all gates for one row and one unit of this block.
template <int Gates>
struct Products {
    float of[Gates] = {};

    __device__ Products(const Share& s, int row, int unit) {
        const float* at = s.sums + row * s.row_sums + unit;
#pragma unroll 4
        for (int slot = 0; slot < s.slots; ++slot, at += s.rows * s.row_sums)
#pragma unroll
            for (int g = 0; g < Gates; ++g) of[g] = of[g] + at[g * s.units];
    }
};

}  // namespace
