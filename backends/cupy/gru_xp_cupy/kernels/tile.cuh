// A warp's part of a product: some rows times G times 8 columns, over blocks of 64 bytes of terms.
//
// The lanes are 8 groups of 4 places. A place has 16 bytes of each block, a quarter of its terms:
// which terms meet in one instruction of a tensor core is free, as long as both factors agree, and
// so every load is of 16 bytes. A group has one column. Both tiles have
//
//     rows                      how many rows they take
//     across                    how many times 8 units they take at most
//     unrolled                  blocks whose loads are under way at the same time; more would not
//                               fit into the registers
//     T                         the type of the numbers
//     Sums<G>                   what a lane keeps
//     add(sums, load, b)        one block: load(row) gives a row's 16 bytes of this lane's place,
//                               b[g] are those of the g-th 8 columns' one of this lane's group
//     finish(sums, store)       store(g, row, column, sum), once for each of them in the warp
//     resident(x)               a weight as it is kept for `add`
#pragma once

#include "device.cuh"

namespace gru_xp {

constexpr int warp_lanes = 32, tile_columns = 8, block_bytes = 64, lane_bytes = 16;

__device__ inline int lane() { return threadIdx.x % warp_lanes; }
__device__ inline int group() { return lane() / 4; }
__device__ inline int place() { return lane() % 4; }

// The ordinary processors, in float.
template <int Rows>
struct Scalar {
    static constexpr int rows = Rows, across = 1, unrolled = Rows > 8 ? 1 : Rows > 4 ? 2 : 4;
    using T = float;

    template <int G>
    struct Sums {
        float at[G][Rows] = {};
    };

    template <int G, class Load>
    __device__ static void add(Sums<G>& sums, const Load& load, const uint4 (&b)[G]) {
#pragma unroll
        for (int row = 0; row < Rows; ++row) {
            const uint4 a = load(row);
#pragma unroll
            for (int g = 0; g < G; ++g) {
                float& sum = sums.at[g][row];
                sum = fmaf(__uint_as_float(a.x), __uint_as_float(b[g].x), sum);
                sum = fmaf(__uint_as_float(a.y), __uint_as_float(b[g].y), sum);
                sum = fmaf(__uint_as_float(a.z), __uint_as_float(b[g].z), sum);
                sum = fmaf(__uint_as_float(a.w), __uint_as_float(b[g].w), sum);
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

    __device__ static float resident(float x) { return x; }
};

// Tensor cores: 16-bit numbers, or float rounded to TF32; the sums are in float.
template <class Number>
struct Tensor {
    static constexpr int rows = 16, across = 2, unrolled = 4;
    using T = Number;

    template <int G>
    struct Sums {
        float at[G][4] = {};
    };

    template <int G, class Load>
    __device__ static void add(Sums<G>& sums, const Load& load, const uint4 (&b)[G]) {
        const uint4 low = rounded(load(group()), T()), high = rounded(load(group() + 8), T());
#pragma unroll
        for (int g = 0; g < G; ++g) {
            multiply_add(sums.at[g], low.x, high.x, low.y, high.y, b[g].x, b[g].y, T());
            multiply_add(sums.at[g], low.z, high.z, low.w, high.w, b[g].z, b[g].w, T());
        }
    }

    template <int G, class Store>
    __device__ static void finish(const Sums<G>& sums, const Store& store) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
            const float(&sum)[4] = sums.at[g];
            store(g, group(), 2 * place(), sum[0]);
            store(g, group(), 2 * place() + 1, sum[1]);
            store(g, group() + 8, 2 * place(), sum[2]);
            store(g, group() + 8, 2 * place() + 1, sum[3]);
        }
    }

    __device__ static T resident(T x) { return x; }

  private:
    template <class Any>
    __device__ static uint4 rounded(uint4 x, Any) {
        return x;
    }
    __device__ static uint4 rounded(uint4 x, float) {
        return {to_tf32(__uint_as_float(x.x)), to_tf32(__uint_as_float(x.y)),
                to_tf32(__uint_as_float(x.z)), to_tf32(__uint_as_float(x.w))};
    }
};

template <>
__device__ inline float Tensor<float>::resident(float x) {
    return __uint_as_float(to_tf32(x));
}

}  // namespace gru_xp
