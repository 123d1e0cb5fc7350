// Whole computations: memory for packed weights, and who computes what.
#pragma once

#include "kernels.hpp"
#include "threads.hpp"

namespace gru_xp {

// The instruction set in use: the best that the processor has, or the one of this name, among
// "plain", "avx2" and "avx512"; null if the processor does not have it.
const InstructionSet& instruction_set();
const InstructionSet* choose_instruction_set(const char* name);

template <class T>
const Kernels<T>& kernels() {
    if constexpr (sizeof(T) == sizeof(float))
        return instruction_set().f32;
    else
        return instruction_set().f64;
}

template <class T>
void product(const Product<T>& p);

// `k` is of the instruction set that p.packed is for, if that is given.
template <class T>
void forward(Forward<T> p, const Kernels<T>& k = kernels<T>());

template <class T>
void backward(Backward<T> p, const T* weight_hh);

// Weights of a cell, or of one direction of a layer.
template <class T>
struct Weights {
    ptrdiff_t input_size;
    const T *weight_ih, *weight_hh;  // (3 size, input_size), (3 size, size)
    const T *bias_ih, *bias_hh;      // (3 size), both or none
};

// The biases that join the input projection: all but b_hn, which the reset gate scales where it acts
// after the product. Null if there are none, else `bias` (3 size).
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

// All layers and directions over a whole sequence, without a tape. There are steps and rows.
template <class T>
struct Sequence {
    ptrdiff_t steps, rows, size, layers;
    int directions;
    const Weights<T>* weights;  // of each layer the direction forward, then the reverse one
    const T* x;                 // (steps, rows, input size)
    const T* h0;                // (layers * directions, rows, size), or null: zeros
    // Of one direction (steps + 1, rows, size): the output begins with the second step; of two
    // (steps, rows, 2 size).
    T* y;
    T* h_n;  // (layers * directions, rows, size)
    bool reset_after;
};

template <class T>
void sequence(const Sequence<T>& p);

// FLOP/s of one thread in multiply-adds of this type, measured for about so many seconds.
template <class T>
double multiply_add_rate(double seconds);

}  // namespace gru_xp
