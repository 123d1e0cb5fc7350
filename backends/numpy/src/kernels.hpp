// What each instruction set's translation unit offers to the rest, and its arguments.
//
// Arrays are row-major and, but for what `Product` says, contiguous. A function computes its share
// of the rows and columns; shares may run at once, in any order, unless it says otherwise.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace gru_xp {

struct Range {
    ptrdiff_t begin, end;
};

// out (rows, columns) = a (rows, depth) b (depth, columns) + bias (columns)
template <class T>
struct Product {
    const T* a;
    ptrdiff_t a_row, a_step;  // strides of a's axes; one of them is 1
    const T* b;
    ptrdiff_t b_step, b_column;  // strides of b's axes; one of them is 1
    const T* bias;               // or null
    T* out;
    ptrdiff_t rows, depth, columns;
};

// The recurrence forward, as gru_xp/core/recurrence.py has it.
template <class T>
struct Forward {
    ptrdiff_t steps, rows, size;
    const T* gx;             // (steps, rows, 3 size)
    const T* weight_hh;      // (3 size, size)
    const T* packed;         // weight_hh by pack_forward, or null: packed where it is used
    const T* b_hn;           // (size), or null
    const int64_t* lengths;  // (rows), or null
    T* states;               // (steps + 1, rows, size); the initial state is in its place
    T *r, *z, *n, *gh_n;     // the tape, each (steps, rows, size), or null
    bool reverse;
};

// The recurrence backward, as gru_xp/core/recurrence.py has it.
template <class T>
struct Backward {
    ptrdiff_t steps, rows, size;
    const T* dh;      // (steps, rows, size)
    const T* packed;  // weight_hh by pack_backward, or null: of one step of one row
    const int64_t* lengths;
    const T* h_prev;           // (steps, rows, size), as all of the tape
    const T *r, *z, *n, *gh_n;
    T* carried;  // (rows, size); dh_last on entry, dh0 at the end
    T* dgx;      // (steps, rows, 3 size)
    T* dgh_n;    // (steps, rows, size)
    bool reverse;
    const T* weight_hh;  // (3 size, size)
};

template <class T>
struct Kernels {
    // False if there was no memory to work in, as of `forward` and `backward`.
    bool (*product)(const Product<T>&, Range rows, Range vectors);
    // These steps, counted in the order in which they are done. Before the first of them all vectors
    // of these rows must have done the one before it: vectors are shares only of one step at a time.
    // Backward begins with backward_start, to which the same applies.
    bool (*forward)(const Forward<T>&, Range rows, Range vectors, Range steps);
    void (*backward_start)(const Backward<T>&, Range rows, Range vectors);
    bool (*backward)(const Backward<T>&, Range rows, Range vectors, Range steps);
    // These vectors of the packed weights: of 3 ceil(size / width) of `size` rows each in forward, of
    // ceil(size / width) of 3 `size` rows in backward.
    void (*pack_forward)(T* packed, const T* weight_hh, ptrdiff_t size, Range vectors);
    void (*pack_backward)(T* packed, const T* weight_hh, ptrdiff_t size, Range vectors);
    void (*tanh)(const T* x, T* out, ptrdiff_t count);
    void (*sigmoid)(const T* x, T* out, ptrdiff_t count);
    double (*multiply_adds)(ptrdiff_t rounds);  // floating operations that it has done
    ptrdiff_t width;                            // numbers in a vector
};

struct InstructionSet {
    const char* name;
    Kernels<float> f32;
    Kernels<double> f64;
};

extern const InstructionSet plain;
#ifdef GRU_XP_X86
extern const InstructionSet avx2;
extern const InstructionSet avx512;
#endif

}  // namespace gru_xp
