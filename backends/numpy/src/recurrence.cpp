// The recurrence, one step of a cell, and whole sequences.
#include <cstring>

#include "plan.hpp"

namespace gru_xp {

// The width of the groups in which to pack the weights: the best one for the largest share's rows.
template <class T>
int group_of(const Kernels<T>& k, const Plan& way, int shares, ptrdiff_t rows) {
    return k.group(way.by_rows ? divided(rows, shares) : rows);
}

template <class T>
void forward(Forward<T> p, const Kernels<T>& k) {
    if (p.steps == 0 || p.rows == 0) return;
    const ptrdiff_t units = divided(p.size, k.width);
    const Wanted wanted(work_of_step(p.rows, p.size) * double(p.steps), worth_sharing);
    const Plan way = plan(wanted.threads(), p.rows, p.size, units, sizeof(T),
                          p.rounds_of_step());
    Scratch scratch;
    Team team(way.shares);
    const int shares = team.size();
    if (!p.reset_after) p.reset_h = must(scratch.take<T>(p.rows * p.size));
    // Stage 0 packs the weights. It is left out if they are packed already, and for a single step,
    // which packs them where it uses them or, for a few rows, uses them unpacked.
    T* packed = nullptr;
    if (!p.packed) {
        p.group = group_of(k, way, shares, p.rows);
        if (p.steps > 1) p.packed = packed = must(scratch.take<T>(3 * units * k.width * p.size));
    }
    const Stages stages(way, shares, p.steps * p.rounds_of_step(), p.rows, p.size);
    const ptrdiff_t first = packed ? 0 : 1;
    const auto body = [&](int share, ptrdiff_t stage) {
        stage += first;
        if (stage == 0) {
            k.pack_forward(packed, p.weight_hh, p.size, p.size, p.reset_after, p.group,
                           {share, shares});
            return true;
        }
        const Range rows = way.by_rows ? rows_of(p.rows, share, shares) : Range{0, p.rows};
        const Share own = way.by_rows ? Share{0, 1} : Share{share, shares};
        return k.forward(p, rows, own, stages.rounds(stage));
    };
    must(team.run(shares, stages.count - first, stages.together - first, body));
}

template <class T>
void backward(Backward<T> p, const T* weight_hh) {
    if (p.steps == 0 || p.rows == 0) return;
    const auto& k = kernels<T>();
    const ptrdiff_t vectors = divided(p.size, k.width);
    const Wanted wanted(work_of_step(p.rows, p.size) * double(p.steps), worth_sharing);
    const Plan way = plan(wanted.threads(), p.rows, p.size, vectors, sizeof(T),
                          p.rounds_of_step());
    Scratch scratch;
    Team team(way.shares);
    const int shares = team.size();
    p.group = group_of(k, way, shares, p.rows);
    // For one step of one row, each weight is used once, and packing does not pay.
    const bool once = p.steps == 1 && p.rows == 1;
    T* packed = once ? nullptr : must(scratch.take<T>(3 * vectors * k.width * p.size));
    p.packed = packed;
    p.weight_hh = weight_hh;
    const Stages stages(way, shares, p.steps * p.rounds_of_step(), p.rows, p.size);
    must(team.run(shares, stages.count, stages.together, [&](int share, ptrdiff_t stage) {
        const Range rows = way.by_rows ? rows_of(p.rows, share, shares) : Range{0, p.rows};
        const Share own = way.by_rows ? Share{0, 1} : Share{share, shares};
        if (stage == 0) {
            if (packed) k.pack_backward(packed, weight_hh, p.size, p.group, {share, shares});
            k.backward_start(p, rows, own);
            return true;
        }
        return k.backward(p, rows, own, stages.rounds(stage));
    }));
}

// A forward recurrence with the fields set that follow from the weights and the extents.
template <class T>
Forward<T> recurrence_of(const Weights<T>& w, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t size,
                         bool reset_after) {
    Forward<T> f{};
    f.steps = steps;
    f.rows = rows;
    f.size = size;
    f.weight_hh = w.weight_hh;
    f.b_hn = w.bias_hh && reset_after ? w.bias_hh + 2 * size : nullptr;
    f.reset_after = reset_after;
    return f;
}

// The input projection of `rows` rows x, without packing the weights beforehand.
template <class T>
Product<T> projection_of(const Weights<T>& w, const T* x, ptrdiff_t rows, ptrdiff_t size,
                         const T* bias, T* gx) {
    return {x, w.input_size, 1, w.weight_ih, 1, w.input_size, bias, gx, rows, w.input_size, 3 * size};
}

template <class T>
void step(const Step<T>& p) {
    if (p.rows == 0) return;
    const auto& k = kernels<T>();
    const ptrdiff_t columns = 3 * p.size, state = p.rows * p.size;
    const ptrdiff_t vectors = divided(columns, k.width);
    Scratch scratch;
    T* states = must(scratch.take<T>(2 * state));
    T* gx = must(scratch.take<T>(p.rows * columns + columns));
    if (p.h)
        std::memcpy(states, p.h, size_t(state) * sizeof(T));
    else
        std::fill_n(states, state, T(0));
    const T* bias = input_bias(p.weights, p.size, p.reset_after, gx + p.rows * columns);
    const Product<T> input = projection_of(p.weights, p.x, p.rows, p.size, bias, gx);
    Forward<T> f = recurrence_of(p.weights, 1, p.rows, p.size, p.reset_after);
    f.gx = gx;
    f.states = states;
    f.group = k.group(p.rows);
    if (!p.reset_after) f.reset_h = must(scratch.take<T>(state));
    const double weights = double(columns) * double(p.weights.input_size + p.size);
    const Wanted wanted(reading(weights, p.rows), worth_reading);
    Team team(wanted.threads());
    const int shares = team.size();
    const ptrdiff_t stages = 1 + f.rounds_of_step();
    must(team.run(shares, stages, stages, [&](int share, ptrdiff_t stage) {
        if (stage == 0) return k.product(input, {0, p.rows}, part(vectors, share, shares));
        return k.forward(f, {0, p.rows}, {share, shares}, {stage - 1, stage});
    }));
    std::memcpy(p.h_next, states + state, size_t(state) * sizeof(T));
}

template <class T>
void sequence(const Sequence<T>& p) {
    const ptrdiff_t state = p.rows * p.size, all = p.steps * state, columns = 3 * p.size;
    const bool two = p.directions == 2, several = p.layers > 1;
    Scratch scratch;
    T* gx = must(scratch.take<T>(p.steps * p.rows * columns + columns));
    T* states = two ? must(scratch.take<T>(all + state)) : nullptr;
    // Layers alternate between two buffers, since a layer reads the output of the one before. The
    // last layer writes to p.y.
    const ptrdiff_t output = two ? 2 * all : all + state;
    T* between = several ? must(scratch.take<T>(2 * output)) : nullptr;
    const T* x = p.x;
    for (ptrdiff_t layer = 0; layer < p.layers; ++layer) {
        T* y = layer + 1 == p.layers ? p.y : between + layer % 2 * output;
        for (int direction = 0; direction < p.directions; ++direction) {
            const ptrdiff_t number = layer * p.directions + direction;
            const Weights<T>& w = p.weights[number];
            const T* bias =
                input_bias(w, p.size, p.reset_after, gx + p.steps * p.rows * columns);
            product(projection_of(w, x, p.steps * p.rows, p.size, bias, gx));
            Forward<T> f = recurrence_of(w, p.steps, p.rows, p.size, p.reset_after);
            f.gx = gx;
            f.states = two ? states : y;
            f.reverse = direction == 1;
            T *first = f.states, *last = f.states + all;
            if (f.reverse) std::swap(first, last);
            if (p.h0)
                std::memcpy(first, p.h0 + number * state, size_t(state) * sizeof(T));
            else
                std::fill_n(first, state, T(0));
            forward(f);
            std::memcpy(p.h_n + number * state, last, size_t(state) * sizeof(T));
            if (!two) continue;
            const T* from = states + (f.reverse ? 0 : state);
            for (ptrdiff_t row = 0; row < p.steps * p.rows; ++row)
                std::memcpy(y + (2 * row + direction) * p.size, from + row * p.size,
                            size_t(p.size) * sizeof(T));
        }
        x = two ? y : y + state;
    }
}

#define GRU_XP_INSTANTIATE(T)                      \
    template void forward(Forward<T>, const Kernels<T>&); \
    template void backward(Backward<T>, const T*); \
    template void step(const Step<T>&);            \
    template void sequence(const Sequence<T>&);

GRU_XP_INSTANTIATE(float)
GRU_XP_INSTANTIATE(double)

}  // namespace gru_xp
