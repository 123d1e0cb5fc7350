// The functions that are compiled for each instruction set, and their arguments.
//
// Arrays are row-major and contiguous, except for the operands of `Product`. A function computes
// its share of the rows and columns. Unless stated otherwise, shares may be computed in any order
// and at the same time.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace gru_xp {

struct Range {
    ptrdiff_t begin, end;
};

// Share `number` of `of` shares that are as equal as possible.
struct Share {
    int number, of;

    Range part(ptrdiff_t count) const { return {count * number / of, count * (number + 1) / of}; }
    // The share's range of vectors of columns. The ranges consist of groups of three, which tiles
    // take together; only the last group may be smaller.
    Range columns(ptrdiff_t vectors) const {
        const Range threes = part((vectors + 2) / 3);
        return {threes.begin * 3, threes.end * 3 < vectors ? threes.end * 3 : vectors};
    }
};

// out (rows, columns) = a (rows, depth) * b (depth, columns) + bias (columns)
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

// The forward recurrence, as defined in gru_xp/core/recurrence.py.
template <class T>
struct Forward {
    ptrdiff_t steps, rows, size;
    const T* gx;             // (steps, rows, 3 size)
    const T* weight_hh;      // (3 size, size)
    const T* packed;         // weight_hh from pack_forward, so that weight_hh may be null; or null:
                             // `forward` packs weight_hh itself, or for a few rows uses it unpacked
    int group;               // width of the groups in `packed`
    const T* b_hn;           // (size), or null
    const int64_t* lengths;  // (rows), or null
    T* states;               // (steps + 1, rows, size), with the initial state already in place
    T *r, *z, *n, *gh_n;     // the tape, each (steps, rows, size), or null; gh_n is not written
                             // without `reset_after`
    T* reset_h;              // (rows, size), working memory, needed without `reset_after`
    bool reverse, reset_after;

    // Rounds per step. If the reset gate acts before the product, there are two, because the
    // candidate needs r of all units.
    int rounds_of_step() const { return reset_after ? 1 : 2; }
};

// The backward recurrence, as defined in gru_xp/core/recurrence.py.
template <class T>
struct Backward {
    ptrdiff_t steps, rows, size;
    const T* dh;      // (steps, rows, size)
    const T* packed;  // weight_hh from pack_backward; may be null for one step of one row
    int group;        // width of the groups in `packed`
    const int64_t* lengths;    // (rows), or null
    const T* h_prev;           // (steps, rows, size), like the rest of the tape
    const T *r, *z, *n, *gh_n;
    T* carried;  // (rows, size); dh_last on entry, dh0 on return
    T* dgx;      // (steps, rows, 3 size)
    T* dgh_n;    // (steps, rows, size); null without `reset_after`: it then equals dgx's n
    bool reverse, reset_after;
    const T* weight_hh;  // (3 size, size)

    int rounds_of_step() const { return reset_after ? 1 : 2; }
};

// gx = x * weight_ih^T + bias, with weights that were packed beforehand.
template <class T>
struct Projection {
    ptrdiff_t rows, depth, size;
    const T* x;       // (rows, depth)
    const T* packed;  // weight_ih (3 size, depth) from pack_forward, with reset_after = true
    int group;        // width of the groups in `packed`
    const T* bias;    // (3 size), or null
    T* gx;            // (rows, 3 size)
};

template <class T>
struct Kernels {
    // Each function that returns bool returns false if it ran out of working memory.
    bool (*product)(const Product<T>&, Range rows, Range vectors);

    // Do the given rounds, numbered in the order of execution. All shares of the columns of these
    // rows must have finished the previous round, so with several shares a call does one round. The
    // same applies to backward_start, which comes before the first round of backward.
    bool (*forward)(const Forward<T>&, Range rows, Share columns, Range rounds);
    void (*backward_start)(const Backward<T>&, Range rows, Share columns);
    bool (*backward)(const Backward<T>&, Range rows, Share columns, Range rounds);
    bool (*project)(const Projection<T>&, Share columns);

    // Pack a share of weights (3 size, depth), or for backward of weight_hh, in groups of `group`
    // vectors of columns. group(rows) below is the widest group for a share of so many rows. For
    // each vector of units, `packed` holds 3 * depth vectors (for backward 3 * size).
    void (*pack_forward)(T* packed, const T* weights, ptrdiff_t size, ptrdiff_t depth,
                         bool reset_after, int group, Share columns);
    void (*pack_backward)(T* packed, const T* weight_hh, ptrdiff_t size, int group, Share columns);
    int (*group)(ptrdiff_t rows);
    void (*tanh)(const T* x, T* out, ptrdiff_t count);
    void (*sigmoid)(const T* x, T* out, ptrdiff_t count);
    double (*multiply_adds)(ptrdiff_t rounds);  // returns the floating-point operations it has done
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
