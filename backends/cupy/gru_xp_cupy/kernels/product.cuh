// The recurrent product of a step: the state, or backward the gradients of the gates, times the
// weights of this block. The warps of the block share it.
#pragma once

#include "share.cuh"

namespace {

// What one warp computes of the product: the sums of a tile of rows and units, over one of the
// splits of the terms. The weights of the first blocks of terms are in registers, those of the next
// in shared memory, and the others in global memory.
template <int Gates>
struct Part {
    static constexpr int columns = Gates * Tile::across;
    using Sums = typename Tile::template Sums<columns>;

    // The weights of the first `held` blocks of terms, which stay in registers.
    static constexpr int held = held_pieces / columns;
    struct Held {
        uint4 b[held ? held : 1][columns];
    };

    int split;
    int unit, first_row;   // indices within the block
    int begin, kept, end;  // blocks of terms; the weights of those before `kept` are on the chip
    int weights;           // offset in shared memory of the lane's first weights there

    __device__ Part(const Share& s, int item) {
        const int tile = item / s.splits;
        const int unit_tiles = s.units / (Tile::across * tile_columns);
        split = item % s.splits;
        unit = settled(tile % unit_tiles * (Tile::across * tile_columns));
        first_row = settled(tile / unit_tiles * Tile::rows);
        begin = settled(first_of(s, split));
        end = settled(first_of(s, split + 1));
        kept = min(begin + held + s.resident, end);
        weights = settled((unit + group()) * s.stride + split * s.resident * block_terms +
                          place() * lane_terms);
    }

    // With a large tile, too few registers are free to keep the members of Part during a whole
    // step, so each step computes them again. The bound was found by trial.
    static constexpr bool large = Tile::loads * columns > 12;
    __device__ static int settled(int x) { return large ? x : once(x); }

    // Offset of the g-th 8 columns of the tile from its first column. The columns of a block are
    // its gates times its units.
    __device__ static int column(const Share& s, int g) {
        return g / Tile::across * s.units + g % Tile::across * tile_columns;
    }

    // Loads blocks of terms k, k + 1, ... of `left`, which other thread blocks have written. The
    // loads bypass the L1 cache, which is not coherent. Elements of `a` for rows that do not exist,
    // and for blocks at or after `end`, keep their values. If `Whole`, all blocks are before `end`.
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

    // Adds the products of block k, whose weights are in shared memory.
    __device__ void add_block(Sums& sums, const uint4 (&a)[Tile::loads], const Share& s,
                              int k) const {
        const T* from = s.weights + weights + (k - begin - held) * block_terms;
        uint4 b[columns];
#pragma unroll
        for (int g = 0; g < columns; ++g) b[g] = load_kept(from + column(s, g) * s.stride);
        Tile::add(sums, a, b);
    }

    template <bool Whole, int Ahead>
    __device__ void add_blocks(Sums& sums, const uint4 (&a)[Ahead][Tile::loads], const Share& s,
                               int k) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (!Whole && k + j >= kept) break;
            add_block(sums, a[j], s, k + j);
        }
    }

    template <int Ahead>
    __device__ void add_resident(Sums& sums, const uint4 (&a)[Ahead][Tile::loads], const Share& s,
                                 int k) const {
        // With more columns, the compiler would load the weights of too many blocks at once, and
        // spill registers.
        constexpr bool fit = Ahead == 1 || columns <= (held ? 3 : streams ? 2 : 6);
        if (fit && k + Ahead <= kept)
            add_blocks<true>(sums, a, s, k);
        else
            add_blocks<false>(sums, a, s, k);
    }

    // Loads the weights that stay in registers. Every split must have at least `held` blocks.
    __device__ Held hold(const Share& s, const Weights& weights) const {
        Held weights_of;
#pragma unroll
        for (int k = 0; k < held; ++k)
#pragma unroll
            for (int g = 0; g < columns; ++g)
                weights_of.b[k][g] = Tile::weights(
                    weights.of(s, column(s, g) + unit + group(), begin + k, place()));
        return weights_of;
    }

    // Multiplies by the weights on the chip. The registers for the state are double-buffered: one
    // half is loaded while the other is used.
    __device__ void multiply_kept(Sums& sums, const Share& s, const T* left,
                                  const Held& of_lane) const {
        constexpr int ahead = Tile::ahead, rounds = (held + ahead - 1) / ahead;
        uint4 a[2][ahead][Tile::loads] = {};
        load(a[0], s, left, begin, kept);
#pragma unroll
        for (int round = 0; round < rounds; ++round) {
            const int first = round * ahead, k = begin + first;
            load(a[(round + 1) % 2], s, left, k + ahead, kept);
#pragma unroll
            for (int j = 0; j < ahead; ++j) {
                if (first + j < held)
                    Tile::add(sums, a[round % 2][j], of_lane.b[first + j]);
                else if (k + j < kept)
                    add_block(sums, a[round % 2][j], s, k + j);
            }
        }
        for (int k = begin + rounds * ahead; k < kept; k += 2 * ahead) {
            load(a[(rounds + 1) % 2], s, left, k + ahead, kept);
            add_resident(sums, a[rounds % 2], s, k);
            load(a[rounds % 2], s, left, k + 2 * ahead, kept);
            add_resident(sums, a[(rounds + 1) % 2], s, k + ahead);
        }
    }

    // Both factors of a block of terms whose weights are in global memory.
    struct Streamed {
        uint4 a[1][Tile::loads], b[columns];
    };

    template <int Ahead>
    __device__ void load_streamed(Streamed (&x)[Ahead], const Share& s, const T* left,
                                  const Weights& all, int k) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (k + j >= end) break;
#pragma unroll
            for (int g = 0; g < columns; ++g)
                x[j].b[g] = all.in_panel(column(s, g) + unit + group(), k + j, place());
            load_blocks<true>(x[j].a, s, left, k + j, end);
        }
    }

    template <int Ahead>
    __device__ void add_streamed(Sums& sums, const Streamed (&x)[Ahead], int k) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (k + j >= end) break;
            uint4 b[columns];
#pragma unroll
            for (int g = 0; g < columns; ++g) b[g] = Tile::weights(x[j].b[g]);
            Tile::add(sums, x[j].a[0], b);
        }
    }

    // Multiplies by the weights in global memory, also with double buffering.
    __device__ void multiply_streamed(Sums& sums, const Share& s, const T* left,
                                      const Weights& all) const {
        // Enough blocks for at least 8 loads in each half.
        constexpr int both = columns + Tile::loads, ahead = (both + 7) / both;
        Streamed x[2][ahead] = {};
        load_streamed(x[0], s, left, all, kept);
        for (int k = kept; k < end; k += 2 * ahead) {
            load_streamed(x[1], s, left, all, k + ahead);
            add_streamed(sums, x[0], k);
            load_streamed(x[0], s, left, all, k + 2 * ahead);
            add_streamed(sums, x[1], k + ahead);
        }
    }

    // `splits` and `slots` are powers of two, which saves divisions.
    __device__ int slot(const Share& s) const { return split & (s.slots - 1); }

    // Stores the sums in their slot, or adds them to those of earlier turns.
    __device__ void leave(const Share& s, const Sums& sums) const {
        Tile::finish(sums, [&](int g, int row, int of_tile, Tile::Stored sum) {
            const int of_block = first_row + row;
            if (of_block >= s.rows) return;
            const int of_slot = slot(s) * s.rows + of_block;
            float* of_row = s.sums + (of_slot * s.row_sums + column(s, g) + unit + of_tile);
            Tile::Stored& stored = *reinterpret_cast<Tile::Stored*>(of_row);
            stored = split < s.slots ? sum : plus(stored, sum);
        });
    }
};

// Computes the product of `left` and the weights of this block, and stores it in s.sums as `slots`
// summands. `part` is the first part of this warp, and `of_lane` its weights in registers.
template <int Gates>
__device__ void product(const Share& s, const T* left, const Weights& weights,
                        Part<Gates>& part, const typename Part<Gates>::Held& of_lane) {
    const int row_tiles = (s.rows + Tile::rows - 1) / Tile::rows;
    const int unit_tiles = s.units / (Tile::across * tile_columns);
    const int parts = row_tiles * unit_tiles * s.splits;
    if (Part<Gates>::large) part = Part<Gates>(s, warp());
    // `splits` and `warps` are powers of two, so that one round computes all splits of a sum. With
    // weights in registers there is only one round.
    for (int item = warp();;) {
        typename Part<Gates>::Sums sums;
        if (item < parts) {
            part.multiply_kept(sums, s, left, of_lane);
            if (streams) part.multiply_streamed(sums, s, left, weights);
        }
        // Splits of the same slot take turns.
        for (int turn = 0; turn < s.splits; turn += s.slots) {
            if (item < parts && part.split == part.slot(s) + turn) part.leave(s, sums);
            if (turn + s.slots < s.splits) __syncthreads();
        }
        if (Part<Gates>::held || parts <= warps) break;
        item += warps;
        const bool done = item / warps * warps >= parts;
        part = Part<Gates>(s, done ? warp() : item);
        if (done) break;
    }
    __syncthreads();
}

// The products of all gates for some rows and one unit of this block.
template <int Gates, int Rows>
struct Products {
    float of[Rows][Gates] = {};

    __device__ Products(const Share& s, const int (&rows)[Rows], int unit) {
        const float* at = s.sums + unit;
#pragma unroll 4 / Rows
        for (int slot = 0; slot < s.slots; ++slot, at += s.rows * s.row_sums)
#pragma unroll
            for (int i = 0; i < Rows; ++i)
#pragma unroll
                for (int g = 0; g < Gates; ++g)
                    of[i][g] = of[i][g] + at[rows[i] * s.row_sums + g * s.units];
    }
};

}  // namespace
