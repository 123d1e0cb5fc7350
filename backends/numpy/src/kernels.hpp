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

// Which share of something, of how many that are as even as they go.
struct Share {
    int number, of;

    Range part(ptrdiff_t count) const { return {count * number / of, count * (number + 1) / of}; }
    // Of vectors of columns, in threes, which the tiles take at a time.
    Range columns(ptrdiff_t vectors) const {
        const Range threes = part((vectors + 2) / 3);
        return {threes.begin * 3, threes.end * 3 < vectors ? threes.end * 3 : vectors};
    }
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
    const T* packed;         // weight_hh by pack_forward, or null: packed where it is used, or
                             // for a few rows multiplied where it lies
    int group;               // of the packed columns
    const T* b_hn;           // (size), or null
    const int64_t* lengths;  // (rows), or null
    T* states;               // (steps + 1, rows, size); the initial state is in its place
    T *r, *z, *n, *gh_n;     // the tape, each (steps, rows, size), or null
    T* reset_h;              // (rows, size), memory of the other form than `reset_after`
    bool reverse, reset_after;

    // A step whose reset gate acts before the product is two rounds, as the candidate needs r of all
    // units.
    int rounds_of_step() const { return reset_after ? 1 : 2; }
};

// The recurrence backward, as gru_xp/core/recurrence.py has it.
template <class T>
struct Backward {
    ptrdiff_t steps, rows, size;
    const T* dh;      // (steps, rows, size)
    const T* packed;  // weight_hh by pack_backward, or null: of one step of one row
    int group;        // of the packed columns
    const int64_t* lengths;
    const T* h_prev;           // (steps, rows, size), as all of the tape
    const T *r, *z, *n, *gh_n;
    T* carried;  // (rows, size); dh_last on entry, dh0 at the end
    T* dgx;      // (steps, rows, 3 size)
    T* dgh_n;    // (steps, rows, size); of the other form than `reset_after` it is null, and dgx's n
    bool reverse, reset_after;
    const T* weight_hh;  // (3 size, size)

    int rounds_of_step() const { return reset_after ? 1 : 2; }
};

// gx = x weight_ih^T + bias, of a few rows, by weights packed beforehand.
template <class T>
struct Projection {
    ptrdiff_t rows, depth, size;
    const T* x;       // (rows, depth)
    const T* packed;  // (3 size, depth) by pack_forward, as of a reset gate after the product
    int group;        // of the packed columns
    const T* bias;    // (3 size), or null
    T* gx;            // (rows, 3 size)
};

template <class T>
struct Kernels {
    // False if there was no memory to work in, as of `forward` and `backward`.
    bool (*product)(const Product<T>&, Range rows, Range vectors);
    // These rounds, counted in the order in which they are done. Before the first of them all shares
    // of these rows' columns must have done the one before it: columns are shared only for one round
    // at a time. Backward begins with backward_start, to which the same applies.
    bool (*forward)(const Forward<T>&, Range rows, Share columns, Range rounds);
    void (*backward_start)(const Backward<T>&, Range rows, Share columns);
    bool (*backward)(const Backward<T>&, Range rows, Share columns, Range rounds);
    bool (*project)(const Projection<T>&, Share columns);
    // A share of weights (3 size, depth) and of W_hh, in groups of so many vectors of columns, the widest
    // that `group` has for so few rows. All are 3 vectors for each vector of units.
    void (*pack_forward)(T* packed, const T* weights, ptrdiff_t size, ptrdiff_t depth,
                         bool reset_after, int group, Share columns);
    void (*pack_backward)(T* packed, const T* weight_hh, ptrdiff_t size, int group, Share columns);
    int (*group)(ptrdiff_t rows);
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
