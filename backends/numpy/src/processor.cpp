// Uses the instructions cpuid and xgetbv directly. The compilers' built-in test needs a part of
// their run-time library that clang does not link on Windows.
#include "processor.hpp"

#ifdef GRU_XP_X86

#include <cpuid.h>

#include <cstdint>

namespace gru_xp {
namespace {

// See Intel's Software Developer's Manual, volume 2 (CPUID) and volume 1, chapter 13.
struct Features {
    uint32_t leaf1_ecx = 0, leaf7_ebx = 0, saved = 0;

    Features() {
        uint32_t a, b, c, d;
        if (__get_cpuid(1, &a, &b, &c, &d)) leaf1_ecx = c;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) leaf7_ebx = b;
        // The registers that the operating system saves when it switches threads (XCR0), if it has
        // enabled xgetbv.
        if (leaf1_ecx >> 27 & 1) asm volatile("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
#ifdef __APPLE__
        // macOS also saves the AVX-512 registers, but reports this only after a thread has used
        // them.
        if ((saved & 0x6) == 0x6) saved |= 0xE0;
#endif
    }

    bool avx2() const {
        return (saved & 0x6) == 0x6 && leaf7_ebx >> 5 & 1 && leaf1_ecx >> 12 & 1;
    }

    bool avx512() const {
        constexpr uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
        constexpr uint32_t all = f | dq | bw | vl;
        return avx2() && (saved & 0xE6) == 0xE6 && (leaf7_ebx & all) == all;
    }
};

}  // namespace

bool has_avx2() { return Features().avx2(); }
bool has_avx512() { return Features().avx512(); }

}  // namespace gru_xp

#endif
