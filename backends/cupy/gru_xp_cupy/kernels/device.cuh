// Functions for single instructions, and for memory of the device.
#pragma once

#include "numbers.cuh"

namespace gru_xp {

// The dynamic shared memory of the block.
__device__ inline uint4* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}

// Returns x. Makes the compiler compute x here: not again at each use, nor in a branch.
__device__ inline int once(int x) {
    asm volatile("" : "+r"(x));
    return x;
}
__device__ inline float once(float x) {
    asm volatile("" : "+f"(x));
    return x;
}
__device__ inline double once(double x) {
    asm volatile("" : "+d"(x));
    return x;
}

// 16 bytes of the block's shared memory.
__device__ inline uint4 load_kept(const void* at) { return *static_cast<const uint4*>(at); }

// 16 bytes of global memory that no block writes.
__device__ inline uint4 load_read_only(const void* at) { return *static_cast<const uint4*>(at); }

// Prefetches the 32 bytes around an address of global memory into the L2 cache.
__device__ inline void fetch_ahead(const void* at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// Adds to a counter in global memory, with release semantics. A thread that reads the new or a
// later count with `load_acquire` sees all earlier writes of this thread, and all writes of other
// threads that this thread has seen.
__device__ inline void add_release(unsigned* at, unsigned count) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(count) : "memory");
}

__device__ inline unsigned load_acquire(const unsigned* at) {
    unsigned count;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(at) : "memory");
    return count;
}

__device__ inline float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ inline unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

__device__ inline unsigned short float_to_bfloat16(float x) {
#if __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    return bfloat16_bits(x);
#endif
}

// Tensor cores: d += a b, where a has 16 rows and b 8 columns. The elements are distributed over
// the lanes of a warp as PTX defines it: mma.m16n8k16 for 16-bit numbers, mma.m16n8k8 for TF32. The
// last argument only selects the overload. They need compute capability 8.0 or later.
#define GRU_XP_MMA(shape)                                                                      \
    asm volatile("mma.sync.aligned." shape                                                     \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"             \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                              \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

__device__ inline void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1, half) {
    GRU_XP_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}

__device__ inline void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1, bfloat16) {
    GRU_XP_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}

__device__ inline void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1, float) {
    GRU_XP_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}

// The bits of x rounded to TF32.
__device__ inline unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

}  // namespace gru_xp
