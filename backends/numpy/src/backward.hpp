// The backward pass of the recurrence: the gradients of a step's gates from the gradient of its
// state, and the products that propagate them to the previous step.
#pragma once

#include "elementary.hpp"
#include "forward.hpp"

namespace GRU_XP_ISA {

using gru_xp::Backward;

// Packs share `own` of weights (3 size, size) into groups of vectors of columns.
template <class T>
inline void pack_backward(T* packed, const T* weight_hh, index size, int group, Share own) {
    constexpr int w = width<T>;
    const Groups groups{unit_vectors<T>(size), group};
    const Range mine = own.part(groups.count());
    for (index g = mine.begin; g < mine.end; ++g) {
        const index v = groups.begin(g);
        const int n = int(groups.begin(g + 1) - v);
        pack_straight(packed + 3 * size * v * w, n * w, weight_hh + v * w, size, size - v * w, n,
                      3 * size);
    }
}

// One step of the backward pass, from time t to time `next`. If `next` is -1, the initial state is
// reached.
template <class T>
struct BackwardStep {
    const Backward<T>& p;
    index t, next;

    // `number` counts the steps in the order of the backward pass.
    BackwardStep(const Backward<T>& of, index number)
        : p(of), t(of.reverse ? number : of.steps - 1 - number),
          next(number + 1 == of.steps ? -1 : t + (of.reverse ? 1 : -1)) {}

    index at(index time, index row, index unit) const {
        return (time * p.rows + row) * p.size + unit;
    }
    T* dgx(index time, index row, index unit) const {
        return p.dgx + (time * p.rows + row) * 3 * p.size + unit;
    }
    T* carried(index row, index unit) const { return p.carried + row * p.size + unit; }
    bool is_padding(index time, index row) const { return p.lengths && time >= p.lengths[row]; }

    // Prefetches what `through_gates` will read and write for the next step. Does nothing if all of
    // it fits into the L1 cache.
    GRU_XP_ALWAYS void fetch(index row, index rows, index vector, int vectors) const {
        if (next < 0 || p.rows * p.size * 10 * index(sizeof(T)) <= first_cache) return;
        const index unit = vector * width<T>, units = vectors * width<T>;
        for (index i = row; i < row + rows; ++i) {
            const index of_step = at(next, i, unit);
            for (const T* read : {p.dh, p.h_prev, p.r, p.z, p.n})
                fetch_numbers(read + of_step, units);
            if (p.reset_after) {
                fetch_numbers(p.gh_n + of_step, units);
                fetch_numbers<T>(p.dgh_n + of_step, units);
            }
            for (int gate = 0; gate < 3; ++gate)
                fetch_numbers<T>(dgx(next, i, unit) + gate * p.size, units);
        }
    }

    // Takes the sums of step t's products: the part of the gradient of the state before it that
    // comes through the gates. Completes that gradient and continues with the gates of step `next`,
    // or leaves it in `carried` if there is none.
    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        each_sum(rows, vectors, sums, [&](index i, int v, Vec<T> sum)
                                          __attribute__((always_inline)) {
            const index unit = (vector + v) * width<T>, left = p.size - unit;
            Vec<T> past = load_upto(carried(row + i, unit), left);
            // In padding, the gradients are zero, but times an infinite weight they give NaN.
            if (!is_padding(t, row + i)) past = past + sum;
            if (next >= 0)
                through_gates(next, row + i, unit, past);
            else
                store_upto(carried(row + i, unit), past, left);
        });
    }

    // Computes the gradients of one row's gates, for a vector of units, from the gradient of the
    // state after step `time`: dh there plus `past`. If the reset gate acts before the product, the
    // gradient of r is left to `BackToReset`. Stores the part of the gradient that bypasses the
    // gates in `carried`.
    GRU_XP_ALWAYS void through_gates(index time, index row, index unit, Vec<T> past) const {
        const index size = p.size, left = size - unit, here = at(time, row, unit);
        const Vec<T> total = load_upto(p.dh + here, left) + past;
        gru_xp::GateGradients<Vec<T>> d{};
        past = total;
        if (!is_padding(time, row)) {
            gru_xp::Gates<Vec<T>> g{};
            g.z = load_upto(p.z + here, left);
            g.n = load_upto(p.n + here, left);
            if (p.reset_after) {
                g.r = load_upto(p.r + here, left);
                g.gh_n = load_upto(p.gh_n + here, left);
            }
            d = gru_xp::gate_gradients<Math<T>>(g, load_upto(p.h_prev + here, left), total);
            past = total * g.z;
        }
        T* gradients = dgx(time, row, unit);
        store_upto(gradients + size, d.z, left);
        store_upto(gradients + 2 * size, d.n, left);
        store_upto(carried(row, unit), past, left);
        if (!p.reset_after) return;
        store_upto(gradients, d.r, left);
        store_upto(p.dgh_n + here, d.gh_n, left);
    }
};

// First half of a backward step with the reset gate before the product. The sums are the gradients
// of r * h_prev.
template <class T>
struct BackToReset : BackwardStep<T> {
    using BackwardStep<T>::BackwardStep;

    void fetch(index, index, index, int) const {}

    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        each_sum(rows, vectors, sums, [&](index i, int v, Vec<T> sum)
                                          __attribute__((always_inline)) {
            of_row(row + i, (vector + v) * width<T>, sum);
        });
    }

    GRU_XP_ALWAYS void of_row(index row, index unit, Vec<T> of_reset_h) const {
        const auto& p = this->p;
        const index left = p.size - unit, here = this->at(this->t, row, unit);
        Vec<T> of_reset{};
        if (!this->is_padding(this->t, row)) {
            const Vec<T> r = load_upto(p.r + here, left);
            of_reset = gru_xp::reset_gradient<Math<T>>(r, load_upto(p.h_prev + here, left),
                                                       of_reset_h);
            T* past = this->carried(row, unit);
            store_upto(past, Vec<T>(load_upto(past, left) + of_reset_h * r), left);
        }
        store_upto(this->dgx(this->t, row, unit), of_reset, left);
    }
};

// Computes the gradients of the gates of the first step of the backward pass.
template <class T>
inline void backward_start(const Backward<T>& p, Range rows, Share own) {
    constexpr int w = width<T>;
    const Range mine = own.columns(unit_vectors<T>(p.size));
    BackwardStep<T> step(p, 0);
    for (index row = rows.begin; row < rows.end; ++row)
        for (index v = mine.begin; v < mine.end; ++v)
            step.through_gates(step.t, row, v * w,
                               load_upto(step.carried(row, v * w), p.size - v * w));
}

// The product of one round of a backward step: its operand, and the first row of the weights that
// it multiplies.
template <class T>
struct BackwardProduct {
    Operand<T> operand;
    index row;

    BackwardProduct(const Backward<T>& p, index t, bool of_candidate) {
        const index size = p.size;
        const T* dgx = p.dgx + t * p.rows * 3 * size;
        if (p.reset_after)  // the gradient of n's recurrent product is dgh_n, not dgx's n
            operand = {dgx, 3 * size, 2 * size, p.dgh_n + t * p.rows * size, size, size};
        else if (of_candidate)
            operand = {dgx + 2 * size, 3 * size, size, nullptr, 0, 0};
        else
            operand = {dgx, 3 * size, 2 * size, nullptr, 0, 0};
        row = of_candidate ? 2 * size : 0;
    }
};

// Computes the product of a single row's only step, multiplying by the unpacked weights. Returns
// false if there is not enough memory.
template <class T, class Step>
inline bool backward_of_row(const Backward<T>& p, Share own, const BackwardProduct<T>& product,
                            const Step& step) {
    constexpr int w = width<T>;
    const Range mine = own.columns(unit_vectors<T>(p.size));
    const index first = mine.begin, end = mine.end, unit = first * w;
    if (first == end) return true;
    const index units = (end * w < p.size ? end * w : p.size) - unit;
    gru_xp::Scratch scratch;
    T *total = scratch.take<T>((end - first) * w), *sum = scratch.take<T>((end - first) * w);
    if (!total || !sum) return false;
    const Operand<T>& a = product.operand;
    for (index k = 0, count; k < a.depth(); k += count) {
        const bool rest = k >= a.count;
        const index left = (rest ? a.depth() : a.count) - k;
        count = left < chain ? left : chain;
        multiply_straight(rest ? a.rest + k - a.count : a.first + k,
                          p.weight_hh + (product.row + k) * p.size + unit, p.size, units, count,
                          k == 0 ? total : sum);
        if (k > 0) add_to(total, sum, units);
    }
    step.finish(0, 1, first, int(end - first), total);
    return true;
}

template <class T>
inline bool backward(const Backward<T>& p, Range rows, Share own, Range rounds) {
    gru_xp::Scratch scratch;
    alignas(vector_bytes) T few[kept_sums<T>(most_rows)];
    T* sums = few;
    if (rows.end - rows.begin > most_rows)
        sums = scratch.take<T>(kept_sums<T>(rows.end - rows.begin));
    if (!sums) return false;
    const Groups groups{unit_vectors<T>(p.size), p.group};
    for (index round = rounds.begin; round < rounds.end; ++round) {
        const bool of_candidate = !p.reset_after && round % 2 == 0;
        const index number = round / p.rounds_of_step();
        const auto go = [&](const auto& step) {
            const BackwardProduct<T> product(p, step.t, of_candidate);
            if (!p.packed) return backward_of_row(p, own, product, step);
            sweep(product.operand, Packed<T>{p.packed, 3 * p.size, product.row}, groups, rows,
                  own.columns(groups.vectors), number % 2, sums, step);
            return true;
        };
        if (!(of_candidate ? go(BackToReset<T>(p, number)) : go(BackwardStep<T>(p, number))))
            return false;
    }
    return true;
}

}  // namespace GRU_XP_ISA
