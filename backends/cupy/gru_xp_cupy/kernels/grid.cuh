// All blocks of a launch wait for one another, once a step. All must be on the device at the same
// time: the launch must be a cooperative one.
#pragma once

#include "device.cuh"

namespace gru_xp {

// What this block has written before is seen by whoever has waited. `arrived` starts as 0.
__device__ inline void arrive(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1u);
    }
}

// Until all blocks have arrived `times` times. The count may wrap around.
__device__ inline void wait(const unsigned* arrived, unsigned times) {
    if (threadIdx.x == 0) {
        const unsigned wanted = times * gridDim.x;
        while (int(*static_cast<const volatile unsigned*>(arrived) - wanted) < 0) __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
}

}  // namespace gru_xp
