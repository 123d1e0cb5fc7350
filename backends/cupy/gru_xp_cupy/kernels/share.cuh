// What a block of persistent.cu works on: its rows and units, the layout of its shared memory, its
// weights, and the array through which blocks exchange states.
#pragma once

#include "tile.cuh"
#include "units.cuh"

using namespace gru_xp;

using Tile = GRU_XP_TILE;
using T = Tile::T;

namespace {

constexpr int threads = 256, warps = threads / warp_lanes;
constexpr int block_terms = block_bytes / sizeof(T), lane_terms = lane_bytes / sizeof(T);
// Number of rows of a chunk: rows that a thread computes at once.
constexpr int early = GRU_XP_EARLY;
// Number of 16-byte pieces of weights that a thread keeps in registers.
constexpr int held_pieces = GRU_XP_HELD;
constexpr bool streams = GRU_XP_STREAMS;  // whether some weights are not on the chip

// The layout of a launch: the last arguments of both kernels, in this order.
struct Layout {
    int steps, rows, size;
    int rows_of_group, units, splits, slots, resident, reverse;
};

struct Share {
    int first_unit, units;  // hidden units of this block
    int first_row, rows;    // rows of the batch
    int size, splits, slots;
    int blocks;             // blocks of terms in a row of weights
    int resident;           // blocks of terms per split that are in shared memory
    int padded_rows;        // rows of a group, rounded up to whole tiles
    int stride;             // distance of two rows of weights in shared memory, in terms
    int columns, group;     // thread blocks per group, and the index of this block's group
    int row_sums;           // distance of two rows of sums
    T* weights;             // (gates * units, stride)
    float* sums;            // (slots, rows, row_sums); gates * units of each row are used
    float* state;           // (rows, units)
};

// Lays out the block's shared memory for products of `terms` terms and `gates` gates.
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
    // An odd multiple of 64 bytes puts the 16-byte loads of 8 lanes into different banks.
    s.stride = (s.splits * s.resident | 1) * block_terms;
    s.weights = reinterpret_cast<T*>(shared_memory());
    s.sums = reinterpret_cast<float*>(s.weights + gates * s.units * s.stride);
    // A distance of 8 or 24 banks puts the 8-byte stores of 16 lanes into different banks.
    s.row_sums = gates * s.units;
    while (s.row_sums % 16 != 8) s.row_sums += 8;
    s.state = s.sums + s.slots * p.rows_of_group * s.row_sums;
    return s;
}

// The weights in global memory: for each gate, `size` rows of `terms` terms. If some weights are
// read again in each step (`streams`), all are stored as panels instead, with the shape (thread
// blocks, blocks of terms, rows of a thread block, terms of a block), padded with zeros.
struct Weights {
    const T* first;  // the first of all weights, or of the panels of this block
    int terms, size;
    int rows;  // rows of this block: its units for each gate

    __device__ Weights(const T* all, const Share& s, int gates, int of_row)
        : first(all), terms(of_row), size(s.size), rows(gates * s.units) {
        if (streams) first += Index(s.first_unit / s.units) * s.blocks * rows * block_terms;
    }

    // 16 bytes of a row of this block.
    __device__ uint4 of(const Share& s, int row, int block, int place) const {
        return streams ? in_panel(row, block, place) : at(s, row, block, place);
    }

    __device__ uint4 in_panel(int row, int block, int place) const {
        const int at = (block * rows + row) * block_terms + place * lane_terms;
        return load_read_only(first + at);
    }

    // Zeros beyond the last unit or term.
    __device__ uint4 at(const Share& s, int row, int block, int place) const {
        uint4 bytes{0, 0, 0, 0};
        const int term = block * block_terms + place * lane_terms;
        const int unit = s.first_unit + row % s.units;
        if (unit < size && term < terms)
            bytes = load_read_only(first + ((row / s.units * size + unit) * terms + term));
        return bytes;
    }
};

// The array through which the blocks of a group exchange states, or gradients of gates. It has two
// buffers, because some blocks may still read those of one step while others write the next.
//
// A buffer consists of panels: (tiles of rows, blocks of terms, elements ordered by
// Tile::in_panel). Hence a warp loads 512 contiguous bytes at once, instead of 64 bytes from each
// of 8 rows. All elements are 0 at first; those beyond the last term stay 0.
struct Exchange {
    T* first;
    Index numbers;  // elements of a buffer
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

// Index of the first block of terms of a split. `split` may be `splits`, which gives the end.
__device__ int first_of(const Share& s, int split) { return s.blocks * split / s.splits; }

// Loads weights of this block into shared memory: those of `resident` blocks of terms of each
// split, after the first `held`, which are in registers.
__device__ void keep(const Share& s, const Weights& weights, int gates, int held) {
    constexpr int lanes = block_terms / lane_terms;
    const int kept = s.splits * s.resident;
    for (int i = threadIdx.x; i < gates * s.units * kept * lanes; i += threads) {
        const int row = i / (kept * lanes), block = i / lanes % kept, place = i % lanes;
        const int split = block / s.resident;
        const int k = first_of(s, split) + held + block % s.resident;
        if (k >= first_of(s, split + 1)) continue;
        *reinterpret_cast<uint4*>(s.weights + row * s.stride + block * block_terms +
                                  place * lane_terms) =
            Tile::weights(weights.of(s, row, k, place));
    }
}

}  // namespace
