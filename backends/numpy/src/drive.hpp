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
void product(const Product<T>& p);

template <class T>
void forward(Forward<T> p);

template <class T>
void backward(Backward<T> p, const T* weight_hh);

// One step of a cell: all biases but b_hn come with the input product.
template <class T>
struct Step {
    ptrdiff_t rows, input_size, size;
    const T *x, *h;  // h may be null: zeros
    const T *weight_ih, *weight_hh;
    const T *bias_ih, *bias_hh;  // both or none
    T* h_next;
};

template <class T>
void step(const Step<T>& p);

// FLOP/s of one thread in multiply-adds of this type, measured for about so many seconds.
template <class T>
double multiply_add_rate(double seconds);

}  // namespace gru_xp
