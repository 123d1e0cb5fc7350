// The instructions of kernels/device.cuh for a CPU.
#pragma once

#include "numbers.cuh"

namespace gru_xp {

inline uint4* shared_memory() {
    return reinterpret_cast<uint4*>(on_cpu::launch->running->block->shared);
}

template <class V>
inline V once(V x) {
    return x;
}

inline uint4 load_kept(const void* at) {
    on_cpu::count_kept();
    return *static_cast<const uint4*>(at);
}

inline uint4 load_read_only(const void* at) {
    on_cpu::count_read_only();
    return *static_cast<const uint4*>(at);
}

inline void fetch_ahead(const void*) {}

inline void add_release(unsigned* at, unsigned count) { *at += count; }

inline unsigned load_acquire(const unsigned* at) { return *at; }

inline float half_to_float(unsigned short bits) { return float(on_cpu::bits_of<_Float16>(bits)); }

inline unsigned short float_to_half(float x) {
    return on_cpu::bits_of<unsigned short>(static_cast<_Float16>(x));
}

inline unsigned short float_to_bfloat16(float x) { return bfloat16_bits(x); }

// Rounded to 10 bits of mantissa, ties away from zero.
inline unsigned to_tf32(float x) {
    return std::isnan(x) ? 0x7fffffffu : (__float_as_uint(x) + 0x1000u) & ~0x1fffu;
}

template <class T>
inline float part(unsigned word, int i) {
    return widen(T{static_cast<unsigned short>(word >> 16 * i)});
}
template <>
inline float part<float>(unsigned word, int) {
    return __uint_as_float(word & ~0x1fffu);  // the instruction ignores the other bits
}

// Lane l holds row l / 4 of a in a0 and a2, row l / 4 + 8 in a1 and a3, and column l / 4 of b. a0,
// a1 and b0 are its terms of the first half, those of its place l % 4; a2, a3 and b1 are its terms
// of the second half. Of d it holds columns 2 (l % 4) and 2 (l % 4) + 1, of the first row and of
// the second.
template <class T>
inline void multiply_add(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                         unsigned b0, unsigned b1, T) {
    on_cpu::count_instruction();
    const auto words = on_cpu::exchange({a0, a1, a2, a3, b0, b1});
    const int lane = threadIdx.x % on_cpu::lanes;
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4, second = i / 2, column = lane % 4 * 2 + i % 2;
        float sum = d[i];
        for (int half = 0; half < 2; ++half)
            for (int place = 0; place < 4; ++place)
                for (int j = 0; j < int(4 / sizeof(T)); ++j)
                    sum += part<T>(words[row * 4 + place][half * 2 + second], j) *
                           part<T>(words[column * 4 + place][4 + half], j);
        d[i] = sum;
    }
}

}  // namespace gru_xp
