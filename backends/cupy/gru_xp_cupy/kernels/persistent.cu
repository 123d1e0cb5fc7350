// The recurrence as one launch for all steps, with the recurrent weights on the chip.
//
// A block owns `units` hidden units, and keeps their weights in its shared memory: forward the
// rows of their three gates, backward their columns. In each step it multiplies what all blocks
// have left of the step before, in global memory, with its weights, and computes its units' gates.
// Warps share the product by rows, by columns and, where these are few, by `splits` of its terms,
// whose sums are added in order. The state, and the gradient of the state, stay in float.
//
// The tile, one of those in tile.cuh, is a macro of the compilation. size must be a multiple of the
// numbers in 16 bytes, and the arrays aligned to 16 bytes; units a multiple of 8.
#include "grid.cuh"
#include "tile.cuh"
#include "units.cuh"

using namespace gru_xp;

using Tile = GRU_XP_TILE;
using T = Tile::T;

namespace {

constexpr int block_terms = block_bytes / sizeof(T), lane_terms = lane_bytes / sizeof(T);

// Blocks of terms that `count` terms fill.
__device__ int blocks_of(int count) { return (count + block_terms - 1) / block_terms; }

struct Share {
    int first, units;  // of the hidden units
    int rows, size, splits;
    int blocks;  // of terms in a resident row
    int stride;  // terms from one resident row to the next
    T* weights;  // (gates * units, stride)
    float* sums;  // (splits, rows, gates, units)
    float* state;  // (rows, units)
};

// Divides the block's shared memory for a product of `gates` gates.
__device__ Share divide(int gates, int units, int rows, int size, int splits, int blocks) {
    Share s{int(blockIdx.x) * units, units, rows, size, splits, blocks};
    // An odd number of 64 bytes, so that the 16 bytes of 8 lanes lie in different banks.
    s.stride = (blocks | 1) * block_terms;
    s.weights = reinterpret_cast<T*>(shared_memory());
    s.sums = reinterpret_cast<float*>(s.weights + gates * units * s.stride);
    s.state = s.sums + splits * rows * gates * units;
    return s;
}

__device__ uint4 zeros() { return {0, 0, 0, 0}; }

// 16 bytes that other blocks have written: past the first cache, which does not see that.
__device__ uint4 load_shared_by_all(const T* at) {
    return __ldcg(reinterpret_cast<const uint4*>(at));
}

// One warp's part of a product: a tile of rows, `Across` tiles of units from `unit` on, and one of
// the splits.
template <int Gates, int Across, class Source>
__device__ void part_of_product(const Share& s, const Source& source, int first_row, int unit,
                                int split) {
    const T* weights = s.weights + (unit + group()) * s.stride + place() * lane_terms;
    typename Tile::template Sums<Gates * Across> sums;
#pragma unroll Tile::unrolled
    for (int k = s.blocks * split / s.splits; k < s.blocks * (split + 1) / s.splits; ++k) {
        uint4 b[Gates * Across];
#pragma unroll
        for (int g = 0; g < Gates * Across; ++g) {
            const int row = g / Across * s.units + g % Across * tile_columns;
            b[g] = *reinterpret_cast<const uint4*>(weights + row * s.stride + k * block_terms);
        }
        Tile::add(sums, [&](int row) { return source(first_row + row, k, place()); }, b);
    }
    Tile::finish(sums, [&](int g, int row, int column, float sum) {
        const int of_split = split * s.rows + first_row + row;
        const int at = unit + g % Across * tile_columns + column;
        if (first_row + row < s.rows) s.sums[(of_split * Gates + g / Across) * s.units + at] = sum;
    });
}

// source(row, block, place): 16 bytes of a row.
template <int Gates, class Source>
__device__ void product(const Share& s, const Source& source) {
    constexpr int most = Tile::across * tile_columns;
    const int row_tiles = (s.rows + Tile::rows - 1) / Tile::rows;
    const int unit_tiles = (s.units + most - 1) / most;
    const int warps = blockDim.x / warp_lanes;
    for (int item = threadIdx.x / warp_lanes; item < row_tiles * unit_tiles * s.splits;
         item += warps) {
        const int split = item % s.splits;
        const int unit = item / s.splits % unit_tiles * most;
        const int first_row = item / s.splits / unit_tiles * Tile::rows;
        if (s.units - unit >= most)
            part_of_product<Gates, Tile::across>(s, source, first_row, unit, split);
        else
            part_of_product<Gates, 1>(s, source, first_row, unit, split);
    }
    __syncthreads();
}

// The product of gate g for the e-th of the block's rows and units.
template <int G>
__device__ float summed(const Share& s, int e, int g) {
    const int row = e / s.units, unit = e % s.units;
    float sum = 0;
    for (int split = 0; split < s.splits; ++split)
        sum = sum + s.sums[((split * s.rows + row) * G + g) * s.units + unit];
    return sum;
}

// f(e, row, unit) for this thread's share of the block's rows and units.
template <class F>
__device__ void for_each_unit(const Share& s, const F& f) {
    for (int e = threadIdx.x; e < s.rows * s.units; e += blockDim.x) {
        const int unit = s.first + e % s.units;
        if (unit < s.size) f(e, e / s.units, unit);
    }
}

}  // namespace

// states (steps + 1, rows, size): the initial state first, or last in reverse.
extern "C" __global__ void __launch_bounds__(256, 1)
    persistent_forward(const T* gx, const T* weight_hh, const T* b_hn, T* states, T* r, T* z, T* n,
                       T* gh_n, const Index* lengths, unsigned* arrived, int steps, int rows,
                       int size, int units, int splits, int reverse) {
    const Share s = divide(3, units, rows, size, splits, blocks_of(size));
    for (int i = threadIdx.x; i < 3 * units * s.stride; i += blockDim.x) {
        const int row = i / s.stride, k = i % s.stride, unit = s.first + row % units;
        const bool there = unit < size && k < size;
        s.weights[i] =
            there ? Tile::resident(weight_hh[(Index(row / units) * size + unit) * size + k]) : T{};
    }
    const Index state = Index(rows) * size;
    const T* h0 = states + (reverse ? steps * state : 0);
    for_each_unit(s, [&](int e, int row, int unit) {
        s.state[e] = widen(h0[Index(row) * size + unit]);
    });
    __syncthreads();
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, lengths, rows, size};
    for (int step = 0; step < steps; ++step) {
        const Index t = reverse ? steps - 1 - step : step;
        const T* h = states + (reverse ? t + 1 : t) * state;
        T* h_next = states + (reverse ? t : t + 1) * state;
        product<3>(s, [&](int row, int block, int place) {
            const int k = block * block_terms + place * lane_terms;
            return row < rows && k < size ? load_shared_by_all(h + Index(row) * size + k) : zeros();
        });
        for_each_unit(s, [&](int e, int row, int unit) {
            s.state[e] = unit_forward(p, t, row, unit, s.state[e], summed<3>(s, e, 0),
                                      summed<3>(s, e, 1), summed<3>(s, e, 2));
            h_next[Index(row) * size + unit] = narrow<T>(s.state[e]);
        });
        if (step + 1 == steps) break;
        arrive(arrived);
        const Index soon = reverse ? t - 1 : t + 1;
        for_each_unit(s, [&](int, int row, int unit) {
            for (int gate = 0; gate < 3; ++gate)
                prefetch(gx + ((soon * rows + row) * 3 + gate) * size + unit);
        });
        wait(arrived, step + 1);
    }
}

// dh_last (rows, size), or null for zeros.
extern "C" __global__ void __launch_bounds__(256, 1)
    persistent_backward(const T* dh, const T* dh_last, const T* h_prev, const T* r, const T* z,
                        const T* n, const T* gh_n, const T* weight_hh, T* dgx, T* dgh_n, T* dh0,
                        const Index* lengths, unsigned* arrived, int steps, int rows, int size,
                        int units, int splits, int reverse) {
    const int of_gate = blocks_of(size);
    const Share s = divide(1, units, rows, size, splits, 3 * of_gate);
    for (int i = threadIdx.x; i < units * s.stride; i += blockDim.x) {
        const int column = i % units, at = i / units, unit = s.first + column;
        const int gate = at / (of_gate * block_terms), k = at % (of_gate * block_terms);
        const bool there = unit < size && gate < 3 && k < size;
        s.weights[column * s.stride + at] =
            there ? Tile::resident(weight_hh[(Index(gate) * size + k) * size + unit]) : T{};
    }
    for_each_unit(s, [&](int e, int row, int unit) {
        s.state[e] = dh_last ? widen(dh_last[Index(row) * size + unit]) : 0.0f;
    });
    __syncthreads();
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, lengths, rows, size};
    for (int step = 0; step < steps; ++step) {
        const Index t = reverse ? step : steps - 1 - step;
        for_each_unit(s, [&](int e, int row, int unit) {
            s.state[e] = unit_backward(p, t, row, unit, s.state[e]);
        });
        arrive(arrived);
        if (step + 1 < steps) {
            const Index soon = reverse ? t + 1 : t - 1;
            for_each_unit(s, [&](int, int row, int unit) {
                const Index at = (soon * rows + row) * size + unit;
                prefetch(dh + at);
                prefetch(h_prev + at);
                prefetch(r + at);
                prefetch(z + at);
                prefetch(n + at);
                prefetch(gh_n + at);
            });
        }
        wait(arrived, step + 1);
        product<1>(s, [&](int row, int block, int place) {
            const int gate = block / of_gate;
            const int k = block % of_gate * block_terms + place * lane_terms;
            if (row >= rows || k >= size) return zeros();
            const Index at = t * rows + row;
            return load_shared_by_all(gate < 2 ? dgx + (at * 3 + gate) * size + k
                                               : dgh_n + at * size + k);
        });
        for_each_unit(s, [&](int e, int row, int) {
            // In padding the product is of zeros, yet not zero where a weight is infinite.
            if (!is_padding(lengths, t, row)) s.state[e] = s.state[e] + summed<1>(s, e, 0);
        });
    }
    for_each_unit(s, [&](int e, int row, int unit) {
        dh0[Index(row) * size + unit] = narrow<T>(s.state[e]);
    });
}
