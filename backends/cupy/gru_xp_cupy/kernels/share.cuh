// A block's share of the work of persistent.cu: its part of the shared memory's, its weights, and
// what blocks leave for one another.
#pragma once

#include "tile.cuh"
#include "units.cuh"

using namespace gru_xp;

using Tile = GRU_XP_TILE;
using T = Tile::T;

namespace {

constexpr int threads = 256, warps = threads / warp_lanes;
constexpr int block_terms = block_bytes / sizeof(T), lane_terms = lane_bytes / sizeof(T);
// Of a thread's rows, how many have their numbers loaded a step ahead.
constexpr int early = GRU_XP_EARLY;
constexpr bool streams = GRU_XP_STREAMS;  // whether there are weights that are not resident

// What all kernels are told of their launch, in the order of its last arguments.
struct Layout {
    int steps, rows, size;
    int rows_of_group, units, splits, slots, resident, reverse;
};

struct Share {
    int first_unit, units;  // of the hidden units
    int first_row, rows;    // of the batch's
    int size, splits, slots;
    int blocks;             // of terms in a row of weights
    int resident;           // of each split, from its first on, how many are in shared memory
    int padded_rows;        // of a group, those of whole tiles
    int stride;             // terms from one row of weights to the next in shared memory
    int columns, group;     // blocks of a group, and which group this is
    int row_sums;           // from one row's sums to the next
    T* weights;             // (gates * units, stride)
    float* sums;            // (slots, rows, row_sums), of which gates * units are used
    float* state;           // (rows, units)
};

// Divides the block's shared memory for a product of `terms` terms for `gates` gates.
__device__ Share divide(const Layout& p, int gates, int terms) {
    Share s;
    s.columns = (p.size + p.units - 1) / p.units;
    s.group = blockIdx.x / s.columns;
    s.first_unit = blockIdx.x % s.columns * p.units;
    s.units = p.units;
    s.first_row = s.group * p.rows_of_group;
    s.rows = min(p.rows_of_group, p.rows - s.first_row);
    s.size = p.size;
    s.splits = p.splits;
    s.slots = p.slots;
    s.blocks = (terms + block_terms - 1) / block_terms;
    s.resident = p.resident;
    s.padded_rows = (p.rows_of_group + Tile::rows - 1) / Tile::rows * Tile::rows;
    // An odd number of 64 bytes, so that the 16 bytes of 8 lanes lie in different banks.
    s.stride = (s.splits * s.resident | 1) * block_terms;
    s.weights = reinterpret_cast<T*>(shared_memory());
    s.sums = reinterpret_cast<float*>(s.weights + gates * s.units * s.stride);
    // 8 or 24 banks further, so that the two numbers of 16 lanes lie in different banks.
    s.row_sums = gates * s.units;
    while (s.row_sums % 16 != 8) s.row_sums += 8;
    s.state = s.sums + s.slots * p.rows_of_group * s.row_sums;
    return s;
}

// The weights of a product in global memory: rows of `terms`, of a gate one for each hidden unit. If
// some are read again in each step, all are in panels: (blocks of threads, blocks of terms, rows of
// a block of threads, terms of a block), with zeros behind the last unit and the last term.
struct Weights {
    const T* first;  // of all weights, or of this block's panels
    int terms, size;
    int rows;  // of this block: for each gate its units

    __device__ Weights(const T* all, const Share& s, int gates, int of_row)
        : first(all), terms(of_row), size(s.size), rows(gates * s.units) {
        if (streams) first += Index(s.first_unit / s.units) * s.blocks * rows * block_terms;
    }

    // 16 bytes of a row of this block, zeros where there are none.
    __device__ uint4 at(const Share& s, int row, int block, int place) const {
        uint4 bytes{0, 0, 0, 0};
        const int term = block * block_terms + place * lane_terms;
        const int unit = s.first_unit + row % s.units;
        if (unit < size && term < terms)
            bytes = load_read_only(first + ((row / s.units * size + unit) * terms + term));
        return bytes;
    }

    // The same from panels.
    __device__ uint4 in_panel(int row, int block, int place) const {
        const int at = (block * rows + row) * block_terms + place * lane_terms;
        return load_read_only(first + at);
    }
};

// What the blocks of a group leave for one another: for the next step, and for the current one,
// which some of them may still be reading.
//
// It is in panels: (tiles of rows, blocks of terms, what Tile::in_panel says). So what the lanes of a
// warp load at once are 512 bytes side by side; of rows that lie apart they would be 8 pieces of 64
// bytes. All is 0 at first; terms behind the last one stay 0.
struct Exchange {
    T* first;
    Index numbers;  // of a step
    int blocks;

    __device__ Exchange(T* exchanged, const Share& s)
        : numbers(Index(s.padded_rows) * s.blocks * block_terms), blocks(s.blocks) {
        first = exchanged + 2 * s.group * numbers;
    }

    __device__ T* of(int step) const { return first + step % 2 * numbers; }

    __device__ void leave(T* of_step, int row, int term, float x) const {
        const int panel = row / Tile::rows * blocks + term / block_terms;
        const int first = panel * (Tile::rows * block_terms);
        of_step[first + Tile::in_panel(row % Tile::rows, term % block_terms)] = Tile::factor(x);
    }
};

// The first block of terms of a split, of as many as `splits` for the one behind the last.
__device__ int first_of(const Share& s, int split) { return s.blocks * split / s.splits; }

__device__ void keep(const Share& s, const Weights& weights, int gates) {
    constexpr int lanes = block_terms / lane_terms;
    const int kept = s.splits * s.resident;
    for (int i = threadIdx.x; i < gates * s.units * kept * lanes; i += threads) {
        const int row = i / (kept * lanes), block = i / lanes % kept, place = i % lanes;
        const int split = block / s.resident, k = first_of(s, split) + block % s.resident;
        if (k >= first_of(s, split + 1)) continue;
        *reinterpret_cast<uint4*>(s.weights + row * s.stride + block * block_terms +
                                  place * lane_terms) =
            Tile::weights(streams ? weights.in_panel(row, k, place) : weights.at(s, row, k, place));
    }
}

}  // namespace
