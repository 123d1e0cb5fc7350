// Tiles: the part of a product that a warp computes at once, some rows times G times Across times 8
// columns. It is summed over blocks of terms of 64 bytes each.
//
// The 32 lanes of a warp form 8 groups of 4 places. Each group handles one of 8 columns. Each place
// handles a quarter of the terms of every block, which is 16 bytes, so every load is 16 bytes wide.
// Tensor cores allow this, because the order of the terms does not matter as long as both factors
// have the same order. The rows of a tile in one block of terms form a panel. Its elements are in
// the order in which the tile loads them, so that the lanes of a warp load contiguous bytes. Every
// tile has these members:
//
//     rows                      number of rows
//     across                    number of units, divided by 8
//     ahead                     number of blocks of terms that are loaded while others are used; it
//                               is limited by the registers
//     loads                     number of 16-byte loads per lane and block of terms
//     T                         type of the elements
//     row(i)                    first row of the i-th load of a lane
//     load_at(i)                position of this load in a panel, in units of 16 bytes
//     in_panel(row, term)       position of an element in a panel
//     Sums<G>                   the sums of a lane
//     add(sums, a, b)           adds the products of a block of terms; a[i] is the result of the
//                               i-th load, b[g] the 16 bytes of the g-th 8 columns for this lane
//     Stored                    one sum, or two sums of adjacent columns
//     finish(sums, store)       calls store(g, row, column, sum) once for each of the warp's sums
//     factor(x)                 converts a number to what `add` takes in a
//     weights(bytes)            converts 16 bytes of weights to what `add` takes in b
#pragma once

#include "device.cuh"

namespace gru_xp {

constexpr int warp_lanes = 32, tile_columns = 8, block_bytes = 64, lane_bytes = 16;

__device__ inline int lane() { return threadIdx.x % warp_lanes; }
__device__ inline int warp() { return threadIdx.x / warp_lanes; }
__device__ inline int group() { return lane() / 4; }
__device__ inline int place() { return lane() % 4; }

__device__ inline float plus(float a, float b) { return a + b; }
__device__ inline float2 plus(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }

// CUDA cores (no tensor cores), in float32.
template <int Rows>
struct Scalar {
    static constexpr int rows = Rows, across = 1, loads = Rows, ahead = 8 / Rows;
    using T = float;
    using Stored = float;

    template <int G>
    struct Sums {
        float at[G][Rows] = {};
    };

    __device__ static int row(int i) { return i; }
    __device__ static int load_at(int i) { return i * (block_bytes / lane_bytes) + place(); }
    __device__ static int in_panel(int row, int term) {
        return row * int(block_bytes / sizeof(T)) + term;
    }

    template <int G>
    __device__ static void add(Sums<G>& sums, const uint4 (&a)[loads], const uint4 (&b)[G]) {
#pragma unroll
        for (int row = 0; row < Rows; ++row) {
#pragma unroll
            for (int g = 0; g < G; ++g) {
                float& sum = sums.at[g][row];
                sum = fmaf(__uint_as_float(a[row].x), __uint_as_float(b[g].x), sum);
                sum = fmaf(__uint_as_float(a[row].y), __uint_as_float(b[g].y), sum);
                sum = fmaf(__uint_as_float(a[row].z), __uint_as_float(b[g].z), sum);
                sum = fmaf(__uint_as_float(a[row].w), __uint_as_float(b[g].w), sum);
            }
        }
    }

    template <int G, class Store>
    __device__ static void finish(const Sums<G>& sums, const Store& store) {
#pragma unroll
        for (int row = 0; row < Rows; ++row)
#pragma unroll
            for (int g = 0; g < G; ++g) {
                float sum = sums.at[g][row];
                sum = sum + __shfl_xor_sync(0xffffffffu, sum, 1);
                sum = sum + __shfl_xor_sync(0xffffffffu, sum, 2);
                if (row % 4 == place()) store(g, row, group(), sum);
            }
    }

    __device__ static T factor(float x) { return x; }
    __device__ static uint4 weights(uint4 bytes) { return bytes; }
};

// Tensor cores, for `Down` times 16 rows. The factors have 16 bits, or are float32 rounded to TF32;
// the sums are float32.
template <class Number, int Down, int Across>
struct Tensor {
    static constexpr int rows = 16 * Down, across = Across, loads = 2 * Down,
                         ahead = 4 / Down;
    using T = Number;
    using Stored = float2;

    template <int G>
    struct Sums {
        float at[Down][G][4] = {};
    };

    // One load gives the factor of one instruction: two words of a row, and two of the row 8 rows
    // below. The instruction needs them in consecutive registers, into which the load writes them.
    __device__ static int row(int i) { return i / 2 * 16 + group(); }
    __device__ static int load_at(int i) { return i * warp_lanes + lane(); }
    __device__ static int in_panel(int row, int term) {
        constexpr int terms = 4 / sizeof(T);  // of a word
        const int word = term / terms % 4, of_place = term / (4 * terms);
        const int load = row / 16 * 2 + word / 2, of_lane = row % 8 * 4 + of_place;
        const int of_load = word % 2 * 2 + row / 8 % 2;
        return ((load * warp_lanes + of_lane) * 4 + of_load) * terms + term % terms;
    }

    template <int G>
    __device__ static void add(Sums<G>& sums, const uint4 (&a)[loads], const uint4 (&b)[G]) {
#pragma unroll
        for (int i = 0; i < Down; ++i) {
            const uint4 first = a[2 * i], second = a[2 * i + 1];
#pragma unroll
            for (int g = 0; g < G; ++g) {
                float(&sum)[4] = sums.at[i][g];
                multiply_add(sum, first.x, first.y, first.z, first.w, b[g].x, b[g].y, T());
                multiply_add(sum, second.x, second.y, second.z, second.w, b[g].z, b[g].w, T());
            }
        }
    }

    template <int G, class Store>
    __device__ static void finish(const Sums<G>& sums, const Store& store) {
#pragma unroll
        for (int i = 0; i < Down; ++i)
#pragma unroll
            for (int g = 0; g < G; ++g) {
                const float(&sum)[4] = sums.at[i][g];
                store(g, 16 * i + group(), 2 * place(), float2{sum[0], sum[1]});
                store(g, 16 * i + group() + 8, 2 * place(), float2{sum[2], sum[3]});
            }
    }

    __device__ static T factor(float x) { return rounded(x, T()); }
    __device__ static uint4 weights(uint4 bytes) { return rounded(bytes, T()); }

  private:
    template <class Any>
    __device__ static Any rounded(float x, Any) {
        return narrow<Any>(x);
    }
    __device__ static float rounded(float x, float) { return __uint_as_float(to_tf32(x)); }
    template <class Any>
    __device__ static uint4 rounded(uint4 x, Any) {
        return x;
    }
    __device__ static uint4 rounded(uint4 x, float) {
        return {to_tf32(__uint_as_float(x.x)), to_tf32(__uint_as_float(x.y)),
                to_tf32(__uint_as_float(x.z)), to_tf32(__uint_as_float(x.w))};
    }
};

}  // namespace gru_xp
