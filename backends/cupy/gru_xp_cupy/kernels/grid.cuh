// Blocks of a launch wait for one another, once a step. All must be on the device at the same time:
// the launch must be a cooperative one.
#pragma once

#include "device.cuh"

namespace gru_xp {

// What this block has written before is seen by whoever has waited. `arrived` starts as 0.
__device__ inline void arrive(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) add_release(arrived, 1u);
}

// Until `blocks` blocks have arrived `times` times. The count may wrap around.
__device__ inline void wait(const unsigned* arrived, unsigned blocks, unsigned times) {
    if (threadIdx.x == 0)
        while (int(load_acquire(arrived) - times * blocks) < 0) __nanosleep(20);
    __syncthreads();
}

}  // namespace gru_xp
