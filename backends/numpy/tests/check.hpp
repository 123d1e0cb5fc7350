// Reports of failed tests, comparisons with expected numbers, and random numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "drive.hpp"

// GCC signals sanitizers with macros, clang with __has_feature.
#if defined(__has_feature)
#define GRU_XP_HAS(feature) __has_feature(feature)
#else
#define GRU_XP_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || GRU_XP_HAS(address_sanitizer)
#define GRU_XP_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__) || GRU_XP_HAS(thread_sanitizer)
#define GRU_XP_THREAD_SANITIZER
#endif

namespace gru_xp_tests {

using index = ptrdiff_t;

// The type in which expected numbers for T are computed.
template <class T>
using Exact = std::conditional_t<std::is_same_v<T, float>, double, long double>;

template <class T>
constexpr const char* type_name = std::is_same_v<T, float> ? "float" : "double";

template <class T>
const gru_xp::Kernels<T>& kernels_of(const gru_xp::InstructionSet& set) {
    if constexpr (std::is_same_v<T, float>)
        return set.f32;
    else
        return set.f64;
}

template <class... Arguments>
std::string text(const char* format, Arguments... arguments) {
    char buffer[512];
    if constexpr (sizeof...(arguments) > 0)
        std::snprintf(buffer, sizeof buffer, format, arguments...);
    else
        std::snprintf(buffer, sizeof buffer, "%s", format);
    return buffer;
}

// The name of the running case, in static memory so that a signal handler can read it.
inline char current_case[512];

template <class... Arguments>
void begin_case(Arguments... arguments) {
    std::snprintf(current_case, sizeof current_case, "%s", text(arguments...).c_str());
}

inline long checks = 0, failures = 0;

inline void fail(const std::string& what) {
    std::fprintf(stderr, "FAILED %s: %s\n", current_case, what.c_str());
    if (++failures == 10) {
        std::fprintf(stderr, "ten failures: no further tests are run\n");
        std::exit(1);
    }
}

inline void expect(bool holds, const std::string& what) {
    ++checks;
    if (!holds) fail(what);
}

// Returns the place of flat index `at` in an array of this shape, such as "[2, 0, 16]".
inline std::string place(index at, std::initializer_list<index> shape) {
    std::string result;
    for (auto extent = shape.end(); extent != shape.begin();) {
        --extent;
        const index length = std::max(*extent, index(1));
        result = std::to_string(at % length) + (result.empty() ? "" : ", ") + result;
        at /= length;
    }
    return "[" + result + "]";
}

// The largest error of the current test so far, as a fraction of the allowed error.
inline double worst_fraction = 0;

// Checks that each number is within `allowed` * epsilon * scale[i] of the expected one. scale[i] is
// the size of the terms of number i, or 1 if there is no scale.
template <class T, class R>
void expect_close(const char* name, std::initializer_list<index> shape, const T* got,
                  const std::vector<R>& expected, double allowed,
                  const std::vector<R>* scale = nullptr) {
    ++checks;
    double worst = -1;
    index where = 0;
    for (index i = 0; i < index(expected.size()); ++i) {
        const double size = std::max(1e-30, scale ? double((*scale)[i]) : 1.0);
        double error = double(std::abs(R(got[i]) - expected[i])) /
                       (size * double(std::numeric_limits<T>::epsilon()));
        if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
        if (error > worst) {
            worst = error;
            where = i;
        }
    }
    worst_fraction = std::max(worst_fraction, worst / allowed);
    if (worst > allowed)
        fail(text("%s%s is %.9g, expected %.9g: worst error %.3g epsilon, allowed %.3g", name,
                  place(where, shape).c_str(), double(got[where]), double(expected[where]), worst,
                  allowed));
}

template <class T>
void expect_same_bits(const char* name, std::initializer_list<index> shape, const T* got,
                      const T* expected, index count) {
    ++checks;
    if (count == 0 || !std::memcmp(got, expected, size_t(count) * sizeof(T))) return;
    index where = 0;
    while (!std::memcmp(got + where, expected + where, sizeof(T))) ++where;
    fail(text("%s%s is %.17g, expected the bits of %.17g", name, place(where, shape).c_str(),
              double(got[where]), double(expected[where])));
}

// A random number generator that gives the same numbers on every machine and in every run.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

    // Returns a uniformly distributed number in [0, count).
    index below(index count) { return index((next() >> 33) % uint64_t(count)); }

    // Returns a uniformly distributed number in [-bound, bound).
    double number(double bound) { return (double(next() >> 11) * 0x1p-52 - 1) * bound; }

    template <class T>
    std::vector<T> numbers(index count, double bound) {
        std::vector<T> result(static_cast<size_t>(count));
        for (T& x : result) x = T(number(bound));
        return result;
    }

  private:
    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }

    uint64_t state_;
};

// Which cases run, and on which instruction sets.
struct Options {
    bool quick = false;
    bool emulated = false;  // runs in an emulator, which may not survive a fork
    std::vector<const char*> sets;
};

void test_reference(const Options&);
void test_elementary(const Options&);
void test_product(const Options&);
void test_recurrence(const Options&);
void test_step(const Options&);
void test_sequence(const Options&);
void test_shares(const Options&);
void test_thread_counts(const Options&);
void test_threads(const Options&);

}  // namespace gru_xp_tests
