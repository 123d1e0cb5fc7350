// The forward pass of the recurrence: the products of each step, and its gates from their sums.
#pragma once

#include "elementary.hpp"
#include "gru_xp_include/equations.hpp"
#include "kernels.hpp"
#include "sweep.hpp"
#include "threads.hpp"

namespace GRU_XP_ISA {

using gru_xp::Forward;
using gru_xp::Share;

// Returns the number of vectors that `size` units take.
template <class T>
inline index unit_vectors(index size) {
    return (size + width<T> - 1) / width<T>;
}

// Loads a whole vector, or without Whole the first `left` < width elements; the others are zero.
template <bool Whole, class T>
GRU_XP_ALWAYS Vec<T> get(const T* p, index left) {
    return Whole ? load(p) : load_first(p, int(left));
}

// Stores a whole vector, or without Whole the first `left` < width elements.
template <bool Whole, class T>
GRU_XP_ALWAYS void put(T* p, Vec<T> v, index left) {
    if (Whole)
        store(p, v);
    else
        store_first(p, v, int(left));
}

// One step, at time t, from state h to state h_next.
template <class T>
struct ForwardStep {
    const Forward<T>& p;
    index t;
    const T* h;
    T* h_next;

    ForwardStep(const Forward<T>& of, index number)
        : p(of), t(of.reverse ? of.steps - 1 - number : number) {
        const index state = p.rows * p.size;
        h = p.states + (p.reverse ? t + 1 : t) * state;
        h_next = p.states + (p.reverse ? t : t + 1) * state;
    }

    const T* gx(index row, index unit) const {
        return p.gx + (t * p.rows + row) * 3 * p.size + unit;
    }
    index of_tape(index row, index unit) const { return (t * p.rows + row) * p.size + unit; }
    bool is_padding(index row) const { return p.lengths && t >= p.lengths[row]; }
};

// A whole step with the reset gate after the product. The vectors of the three gates of the same
// units are neighbours.
template <class T>
struct GatesAfter : ForwardStep<T> {
    using ForwardStep<T>::ForwardStep;

    // Prefetches what the gates will read and write, while their product is being computed. Does
    // nothing if all of it fits into the L1 cache.
    GRU_XP_ALWAYS void fetch(index row, index rows, index vector, int vectors) const {
        const auto& p = this->p;
        if (p.rows * p.size * (p.r ? 8 : 4) * index(sizeof(T)) <= first_cache) return;
        const index unit = vector / 3 * width<T>, units = vectors / 3 * width<T>;
        for (index i = row; i < row + rows; ++i) {
            for (int gate = 0; gate < 3; ++gate)
                fetch_numbers<T>(this->gx(i, unit) + gate * p.size, units);
            fetch_numbers<T>(this->h_next + i * p.size + unit, units);
            if (!p.r) continue;
            for (const T* kept : {p.r, p.z, p.n, p.gh_n})
                fetch_numbers(kept + this->of_tape(i, unit), units);
        }
    }

    // Computes the gates from their sums. Takes vectors in pairs where both are whole and neither
    // is padding.
    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        Spot waiting{};
        bool waits = false;
        for (int v = 0; v < vectors; v += 3)
            for (index i = 0; i < rows; ++i) {
                const Spot spot{row + i, (vector + v) / 3 * width<T>,
                                sums + (i * vectors + v) * width<T>};
                if (this->p.size - spot.unit < width<T>)
                    of_one<false>(spot);
                else if (this->is_padding(spot.row))
                    of_one<true>(spot);
                else if (waits)
                    of_two(waiting, spot), waits = false;
                else
                    waiting = spot, waits = true;
            }
        if (waits) of_one<true>(waiting);
    }

  private:
    struct Spot {
        index row, unit;
        const T* sums;
    };

    template <bool Whole>
    GRU_XP_ALWAYS void of_one(const Spot& s) const {
        const auto& p = this->p;
        const One<Whole> access{p.size - s.unit};
        if (!this->is_padding(s.row)) return compute(access, s, s);
        const index at = s.row * p.size + s.unit;
        access.write(this->h_next + at, 0, access.read(this->h + at, 0));
        if (!p.r) return;
        for (T* kept : {p.r, p.z, p.n, p.gh_n})
            access.write(kept + this->of_tape(s.row, s.unit), 0, Vec<T>{});
    }

    GRU_XP_ALWAYS void of_two(const Spot& s, const Spot& other) const { compute(Both{}, s, other); }

    // Access to the numbers of a single spot. Without Whole, only `left` < width of them exist.
    template <bool Whole>
    struct One {
        index left;
        GRU_XP_ALWAYS Vec<T> read(const T* at, index) const { return get<Whole>(at, left); }
        GRU_XP_ALWAYS void write(T* at, index, Vec<T> v) const { put<Whole>(at, v, left); }
        GRU_XP_ALWAYS Vec<T> sum(const T* at, index) const { return load(at); }
    };

    // Access to the numbers of a spot and of another one, which lie `apart` numbers further on.
    struct Both {
        GRU_XP_ALWAYS Two<T> read(const T* at, index apart) const {
            return {load(at), load(at + apart)};
        }
        GRU_XP_ALWAYS void write(T* at, index apart, Two<T> v) const {
            store(at, v.a);
            store(at + apart, v.b);
        }
        GRU_XP_ALWAYS Two<T> sum(const T* at, index apart) const { return read(at, apart); }
    };

    template <class Access>
    GRU_XP_ALWAYS void compute(Access access, const Spot& s, const Spot& other) const {
        using V = decltype(access.sum(s.sums, 0));
        using M = Math<T, V>;
        constexpr int w = width<T>;
        const auto& p = this->p;
        const index size = p.size, at = s.row * size + s.unit;
        const index apart = other.row * size + other.unit - at;
        const index sums_apart = other.sums - s.sums;
        const T *gx = this->gx(s.row, s.unit), *other_gx = this->gx(other.row, other.unit);
        const index gx_apart = other_gx - gx;
        V gh_n = access.sum(s.sums + 2 * w, sums_apart);
        if (p.b_hn) gh_n = gh_n + access.read(p.b_hn + s.unit, other.unit - s.unit);
        const auto g = gru_xp::gates<M>(
            access.read(gx, gx_apart), access.read(gx + size, gx_apart),
            access.read(gx + 2 * size, gx_apart), access.sum(s.sums, sums_apart),
            access.sum(s.sums + w, sums_apart), gh_n);
        access.write(this->h_next + at, apart,
                     gru_xp::next_state<M>(g, access.read(this->h + at, apart)));
        if (!p.r) return;
        const index tape = this->of_tape(s.row, s.unit);
        access.write(p.r + tape, apart, g.r);
        access.write(p.z + tape, apart, g.z);
        access.write(p.n + tape, apart, g.n);
        access.write(p.gh_n + tape, apart, g.gh_n);
    }
};

// First half of a step with the reset gate before the product: r and z, with all vectors of r
// before those of z. Stores z in the place of the next state until the second half.
template <class T>
struct ResetAndUpdate : ForwardStep<T> {
    using ForwardStep<T>::ForwardStep;

    void fetch(index, index, index, int) const {}

    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        const index units = unit_vectors<T>(this->p.size);
        each_sum(rows, vectors, sums, [&](index i, int v, Vec<T> sum)
                                          __attribute__((always_inline)) {
            const bool is_reset = vector + v < units;
            of_row(row + i, (vector + v - (is_reset ? 0 : units)) * width<T>, is_reset, sum);
        });
    }

    GRU_XP_ALWAYS void of_row(index row, index unit, bool is_reset, Vec<T> gh) const {
        const auto& p = this->p;
        const index left = p.size - unit, at = row * p.size + unit;
        const T* gx = this->gx(row, unit) + (is_reset ? 0 : p.size);
        Vec<T> gate{};
        if (!this->is_padding(row))
            gate = gru_xp::sigmoid<Math<T>>(Vec<T>(load_upto(gx, left) + gh));
        if (is_reset)
            store_upto(p.reset_h + at, Vec<T>(gate * load_upto(this->h + at, left)), left);
        else
            store_upto(this->h_next + at, gate, left);
        if (p.r) store_upto((is_reset ? p.r : p.z) + this->of_tape(row, unit), gate, left);
    }
};

// Second half of that step: the candidate and the next state.
template <class T>
struct Candidate : ForwardStep<T> {
    using ForwardStep<T>::ForwardStep;

    void fetch(index, index, index, int) const {}

    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        each_sum(rows, vectors, sums, [&](index i, int v, Vec<T> sum)
                                          __attribute__((always_inline)) {
            of_row(row + i, (vector + v) * width<T>, sum);
        });
    }

    GRU_XP_ALWAYS void of_row(index row, index unit, Vec<T> gh_n) const {
        using M = Math<T>;
        const auto& p = this->p;
        const index left = p.size - unit, at = row * p.size + unit;
        const Vec<T> h = load_upto(this->h + at, left);
        gru_xp::Gates<Vec<T>> g{};
        Vec<T> next = h;
        if (!this->is_padding(row)) {
            g.z = load_upto(this->h_next + at, left);
            g.n = M::tanh(Vec<T>(load_upto(this->gx(row, unit) + 2 * p.size, left) + gh_n));
            next = gru_xp::next_state<M>(g, h);
        }
        store_upto(this->h_next + at, next, left);
        if (p.n) store_upto(p.n + this->of_tape(row, unit), g.n, left);
    }
};

// Calls f(first, vectors) for each product of a step, with the number of its first vector of
// columns and the number of vectors.
template <class T, class F>
GRU_XP_ALWAYS void for_each_product(index size, bool reset_after, F f) {
    const index units = unit_vectors<T>(size);
    if (reset_after) {
        f(index(0), 3 * units);
    } else {
        f(index(0), 2 * units);
        f(2 * units, units);
    }
}

// Packs share `own` of weights (3 size, depth) into groups of vectors of columns.
template <class T>
inline void pack_forward(T* packed, const T* weights, index size, index depth, bool reset_after,
                         int group, Share own) {
    for_each_product<T>(size, reset_after, [&](index from, index vectors) {
        const Groups groups{vectors, group};
        const Range mine = own.part(groups.count());
        for (index g = mine.begin; g < mine.end; ++g) {
            const index first = from + groups.begin(g);
            pack_gates(packed + first * width<T> * depth, weights, size, depth, reset_after, first,
                       int(groups.begin(g + 1) - groups.begin(g)));
        }
    });
}

// Weights that are used only once. Packs each group right before its use.
template <class T>
struct PackedNow {
    using Kind = Columns<T>;
    const Forward<T>& p;
    T* own;
    index from;  // first vector, counted over all gates

    Kind columns(Range, index vector, int vectors) const {
        pack_gates(own, p.weight_hh, p.size, p.size, p.reset_after, from + vector, vectors);
        return {own, vectors * width<T>};
    }
    Kind next(Range, index, int vectors) const { return {own, vectors * width<T>}; }
};

// Computes one round for these rows and share `own` of the columns: a step, or half a step if the
// reset gate acts before the product. The round's product has `vectors` vectors of columns from
// number `from` on.
template <class T, class Step>
inline void go_forward(const Forward<T>& p, const Step& step, const T* operand, index from,
                       index vectors, Range rows, Share own, bool back, T* sums, T* packing) {
    const Groups groups{vectors, p.group};
    const Range mine = own.columns(vectors);
    const Operand<T> a{operand, p.size, p.size, nullptr, 0, 0};
    if (packing)
        sweep(a, PackedNow<T>{p, packing, from}, groups, rows, mine, back, sums, step);
    else
        sweep(a, Packed<T>{p.packed + from * width<T> * p.size, p.size, 0}, groups, rows, mine,
              back, sums, step);
}

// Computes one round for R rows from `row` on, multiplying by the unpacked weights.
template <int R, class T>
inline void forward_of_rows(const Forward<T>& p, index row, Share own, index round) {
    constexpr int w = width<T>;
    const index size = p.size, number = round / p.rounds_of_step();
    const bool second = round % p.rounds_of_step();
    const Range units = own.part(unit_vectors<T>(size));
    const ForwardStep<T> step(p, number);
    const T* operand = (second ? p.reset_h : step.h) + row * size;
    Vec<T> sums[R];
    for (index v = units.begin; v < units.end; ++v) {
        const index unit = v * w;
        const auto multiply = [&](index gate) __attribute__((always_inline)) {
            multiply_transposed<R>(operand, size, p.weight_hh + (gate * size + unit) * size, size,
                                   size - unit, size, sums);
        };
        if (p.reset_after) {
            T kept[R * 3 * w];
            for (int gate = 0; gate < 3; ++gate) {
                multiply(gate);
                for (int i = 0; i < R; ++i) store(kept + (i * 3 + gate) * w, sums[i]);
            }
            GatesAfter<T>(p, number).finish(row, R, 3 * v, 3, kept);
        } else if (!second) {
            const ResetAndUpdate<T> gates(p, number);
            for (int gate = 0; gate < 2; ++gate) {
                multiply(gate);
                for (int i = 0; i < R; ++i) gates.of_row(row + i, unit, gate == 0, sums[i]);
            }
        } else {
            multiply(2);
            for (int i = 0; i < R; ++i)
                Candidate<T>(p, number).of_row(row + i, unit, sums[i]);
        }
    }
}

template <class T>
inline bool forward(const Forward<T>& p, Range rows, Share own, Range rounds) {
    constexpr int w = width<T>;
    if (rows.begin == rows.end) return true;
    if (!p.packed && rows.end - rows.begin <= few_rows) {
        for (index round = rounds.begin; round < rounds.end; ++round)
            with_rows<few_rows>(rows.end - rows.begin, [&](auto r) __attribute__((always_inline)) {
                forward_of_rows<decltype(r)::value>(p, rows.begin, own, round);
            });
        return true;
    }
    const index units = unit_vectors<T>(p.size);
    gru_xp::Scratch scratch;
    alignas(vector_bytes) T few[kept_sums<T>(most_rows)];
    T* sums = few;
    if (rows.end - rows.begin > most_rows)
        sums = scratch.take<T>(kept_sums<T>(rows.end - rows.begin));
    T* packing = p.packed ? nullptr : scratch.take<T>((p.group + 1) * w * p.size);
    if (!sums || (!packing && !p.packed)) return false;
    for (index round = rounds.begin; round < rounds.end; ++round) {
        const bool back = round / p.rounds_of_step() % 2, second = round % p.rounds_of_step();
        if (p.reset_after) {
            const GatesAfter<T> step(p, round);
            go_forward(p, step, step.h, 0, 3 * units, rows, own, back, sums, packing);
        } else if (!second) {
            const ResetAndUpdate<T> step(p, round / 2);
            go_forward(p, step, step.h, 0, 2 * units, rows, own, back, sums, packing);
        } else {
            const Candidate<T> step(p, round / 2);
            go_forward<T>(p, step, p.reset_h, 2 * units, units, rows, own, back, sums, packing);
        }
    }
    return true;
}

}  // namespace GRU_XP_ISA
