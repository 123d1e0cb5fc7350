// A barrier of several thread blocks, once per step. All of them must run at the same time, so the
// launch must be cooperative.
#pragma once

#include "device.cuh"

namespace gru_xp {

// Counts this block as arrived. A block that has waited for it sees what it wrote before. `arrived`
// must be 0 at first.
__device__ inline void arrive(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) add_release(arrived, 1u);
}

// Waits until `blocks` blocks have arrived `times` times each. The count may wrap around.
__device__ inline void wait(const unsigned* arrived, unsigned blocks, unsigned times) {
    if (threadIdx.x == 0)
        while (int(load_acquire(arrived) - times * blocks) < 0) __nanosleep(20);
    __syncthreads();
}

}  // namespace gru_xp
