// Whole computations: memory for packed weights, and the division of the work among threads.
#pragma once

#include "kernels.hpp"
#include "threads.hpp"

namespace gru_xp {

// The instruction set in use: the last one chosen, otherwise the best that the processor supports.
const InstructionSet& instruction_set();
// Selects an instruction set by name: "plain", "avx2" or "avx512". Returns null and changes nothing
// if the name is another one, or the processor or the build does not support the set.
const InstructionSet* choose_instruction_set(const char* name);

// The functions of the instruction set in use for numbers of type T.
template <class T>
const Kernels<T>& kernels() {
    if constexpr (sizeof(T) == sizeof(float))
        return instruction_set().f32;
    else
        return instruction_set().f64;
}

template <class T>
void product(const Product<T>& p);

// If p.packed is given, `k` must belong to the instruction set for which it was packed.
template <class T>
void forward(Forward<T> p, const Kernels<T>& k = kernels<T>());

template <class T>
void backward(Backward<T> p, const T* weight_hh);

// The weights of a cell or of one direction of a layer.
template <class T>
struct Weights {
    ptrdiff_t input_size;
    const T *weight_ih, *weight_hh;  // (3 size, input_size), (3 size, size)
    const T *bias_ih, *bias_hh;      // (3 size), or both null
};

// Writes the bias of the input projection to `bias` (3 size) and returns it; returns null if there
// are no biases. It is the sum of both biases. With `reset_after` it leaves out b_hn, which the
// reset gate scales.
template <class T>
inline const T* input_bias(const Weights<T>& w, ptrdiff_t size, bool reset_after, T* bias) {
    if (!w.bias_ih) return nullptr;
    const ptrdiff_t both = (reset_after ? 2 : 3) * size;
    for (ptrdiff_t i = 0; i < 3 * size; ++i)
        bias[i] = i < both ? w.bias_ih[i] + w.bias_hh[i] : w.bias_ih[i];
    return bias;
}

// One step of a cell.
template <class T>
struct Step {
    ptrdiff_t rows, size;
    const T *x, *h;  // h may be null: zeros
    Weights<T> weights;
    T* h_next;
    bool reset_after;
};

template <class T>
void step(const Step<T>& p);

// All layers and directions over a whole sequence, without a tape. `steps` and `rows` are not 0.
template <class T>
struct Sequence {
    ptrdiff_t steps, rows, size, layers;
    int directions;
    const Weights<T>* weights;  // for each layer the forward direction, then the reverse one
    const T* x;                 // (steps, rows, input size)
    const T* h0;                // (layers * directions, rows, size), or null: zeros
    // With one direction (steps + 1, rows, size), where the output begins at index 1; with two
    // (steps, rows, 2 size).
    T* y;
    T* h_n;  // (layers * directions, rows, size)
    bool reset_after;
};

template <class T>
void sequence(const Sequence<T>& p);

// The highest FLOP/s that one thread reaches with multiply-adds of type T. Measures for about
// `seconds` seconds.
template <class T>
double multiply_add_rate(double seconds);

}  // namespace gru_xp
