// The parts of CUDA C++ that the kernels use and that do not concern threads, for a CPU.
#pragma once

#include <algorithm>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace on_cpu {

template <class To, class From>
To bits_of(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace on_cpu

using std::min;
inline float __uint_as_float(unsigned bits) { return on_cpu::bits_of<float>(bits); }
inline unsigned __float_as_uint(float value) { return on_cpu::bits_of<unsigned>(value); }
