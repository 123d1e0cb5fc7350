// Compiled once for each instruction set, with its name in GRU_XP_ISA and its compiler options.
#include "backward.hpp"
#include "elementary.hpp"
#include "forward.hpp"
#include "kernels.hpp"
#include "product.hpp"
#include "project.hpp"

#define GRU_XP_TEXT_(x) #x
#define GRU_XP_TEXT(x) GRU_XP_TEXT_(x)

namespace GRU_XP_ISA {
namespace {

template <class T, class F>
inline void map(const T* x, T* out, index count, F f) {
    for (index i = 0; i < count; i += width<T>)
        store_upto(out + i, f(load_upto(x + i, count - i)), count - i);
}

template <class T>
void tanh_of(const T* x, T* out, index count) {
    map(x, out, count, [](Vec<T> v) __attribute__((always_inline)) { return Math<T>::tanh(v); });
}

template <class T>
void sigmoid_of(const T* x, T* out, index count) {
    map(x, out, count,
        [](Vec<T> v) __attribute__((always_inline)) { return gru_xp::sigmoid<Math<T>>(v); });
}

// Does multiply-adds as fast as the processor can, in enough independent chains to hide their
// latency. Returns the number of floating-point operations.
template <class T>
double multiply_adds(index rounds) {
    constexpr int chains = registers == 32 ? 24 : 12;
    Vec<T> acc[chains];  // all different, or the compiler would merge them
    for (int c = 0; c < chains; ++c) acc[c] = splat(T(c));
    const Vec<T> x = splat(T(0.999)), y = splat(T(0.001));
    for (index i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
        for (int c = 0; c < chains; ++c) acc[c] = fma(acc[c], x, y);
    }
    Vec<T> total{};
    for (int c = 0; c < chains; ++c) total = total + acc[c];
    // The result includes the sum, so that the compiler cannot remove the loop. The factor makes it
    // far smaller than one.
    return 2.0 * double(rounds) * chains * width<T> + double(total[0]) * 1e-30;
}

template <class T>
constexpr gru_xp::Kernels<T> kernels() {
    return {product<T>, forward<T>,       backward_start<T>, backward<T>,
            project<T>, pack_forward<T>,  pack_backward<T>,  widest_group,
            tanh_of<T>, sigmoid_of<T>,    multiply_adds<T>,  width<T>};
}

}  // namespace
}  // namespace GRU_XP_ISA

const gru_xp::InstructionSet gru_xp::GRU_XP_ISA{
    GRU_XP_TEXT(GRU_XP_ISA), ::GRU_XP_ISA::kernels<float>(), ::GRU_XP_ISA::kernels<double>()};
