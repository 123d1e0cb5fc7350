// The loop over time in one launch, with the recurrent weights on the chip.
//
// The rows of the batch are divided among groups of thread blocks. The groups are independent of
// one another. Each block of a group computes `units` hidden units. Their weights are the rows of
// the three gates in the forward pass, and rows of the transposed weights in the backward pass.
// The block keeps them in shared memory and, if they do not fit there, in registers too. It reads
// the remaining weights from global memory in each step.
//
// In each step, a block reads the results of the previous step of all blocks of its group from
// global memory, multiplies them by its weights, and computes the gates of its units. The product
// is divided among the warps by rows, by columns, and into `splits` of the terms. The sums of the
// splits are added in a fixed order. The state and its gradient are kept in float32.
//
// A block loads the other inputs of a step before it waits for the other blocks. It stores the
// outputs for the caller after it has signalled its arrival to them.
//
// The macros GRU_XP_TILE, GRU_XP_EARLY, GRU_XP_HELD and GRU_XP_STREAMS set the tile (see tile.cuh),
// `early`, `held_pieces` and `streams` (see share.cuh). size must be a multiple of the number
// of elements in 16 bytes; weights and `exchanged` must be aligned to 16 bytes; units must be a
// multiple of the tile's columns, and at most the number of threads per block.
#include "grid.cuh"
#include "product.cuh"

namespace {

constexpr int line = 32;  // distance of two groups' counters of arrivals, in words

// The gates that a thread computes: those of one hidden unit, for every `apart`-th row from
// `first`.
struct Mine {
    int unit, first, apart;  // indices within the block
    int rows;                // number of rows of the block, or 0 for a thread without a unit

    __device__ explicit Mine(const Share& s) {
        apart = threads / s.units;
        unit = threadIdx.x % s.units;
        first = threadIdx.x / s.units;
        rows = first < apart && s.first_unit + unit < s.size ? s.rows : 0;
    }

    // Calls f(i, row) for the first `early` rows; i is a compile-time constant.
    template <class F>
    __device__ void for_each_early(const F& f) const {
#pragma unroll
        for (int i = 0; i < early; ++i)
            if (first + i * apart < rows) f(i, first + i * apart);
    }

    template <class F>
    __device__ void for_each_later(const F& f) const {
#pragma unroll 1
        for (int row = first + early * apart; row < rows; row += apart) f(row);
    }
};

}  // namespace

// states (steps + 1, rows, size) has the initial state first, or last in reverse. exchanged is
// scratch memory; see Exchange.
extern "C" __global__ void __launch_bounds__(threads, 1)
    persistent_forward(const T* gx, const T* weight_hh, const T* b_hn, T* states, T* r, T* z, T* n,
                       T* gh_n, T* exchanged, const Index* lengths, unsigned* arrived, int steps,
                       int rows, int size, int rows_of_group, int units, int splits, int slots,
                       int resident, int reverse) {
    const Layout layout{steps, rows,  size,     rows_of_group, units,
                        splits, slots, resident, reverse};
    const Share s = divide(layout, 3, size);
    const Weights weights(weight_hh, s, 3, size);
    const Exchange exchange(exchanged, s);
    keep(s, weights, 3, Part<3>::held);
    Part<3> part(s, warp());
    const auto held = part.hold(s, weights);
    const Mine mine(s);
    const Index state = Index(rows) * size;
    const int unit = s.first_unit + mine.unit;
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, lengths, rows, size};
    const float b = unit < size ? bias(p, unit) : 0.0f;
    Input<T> input[early];
    Gates<float> kept[early];
    const T* h0 = states + (reverse ? steps * state : 0);
    const auto take_state = [&](int row) {
        const float h = widen(h0[Index(s.first_row + row) * size + unit]);
        s.state[row * units + mine.unit] = h;
        exchange.leave(exchange.of(0), row, unit, h);
    };
    mine.for_each_early([&](int, int row) { take_state(row); });
    mine.for_each_later(take_state);
    unsigned* of_group = arrived + s.group * line;
    arrive(of_group);
    for (int done = 0; done < steps; ++done) {
        const Index t = reverse ? steps - 1 - done : done;
        mine.for_each_early(
            [&](int i, int row) { input[i] = load(p, t, s.first_row + row, unit); });
        mine.for_each_later([&](int row) { fetch_ahead(p, t, s.first_row + row, unit); });
        wait(of_group, s.columns, done + 1);
        product<3>(s, exchange.of(done), weights, part, held);
        T* left = exchange.of(done + 1);
        const auto gates_of = [&](const Input<T>& x, int row) {
            const Products<3> gh(s, row, mine.unit);
            const Gates<float> g = step<T>(x, gh.of[0], gh.of[1], gh.of[2] + b);
            float& h = s.state[row * units + mine.unit];
            h = next(x, g, h);
            exchange.leave(left, row, unit, h);
            return g;
        };
        T* h_next = states + (reverse ? t : t + 1) * state;
        const auto store_step = [&](int row, const Gates<float>& g) {
            const Index at = s.first_row + row;
            h_next[at * size + unit] = narrow<T>(s.state[row * units + mine.unit]);
            store(p, t, at, unit, g);
        };
        mine.for_each_early([&](int i, int row) { kept[i] = gates_of(input[i], row); });
        mine.for_each_later([&](int row) {
            store_step(row, gates_of(load(p, t, s.first_row + row, unit), row));
        });
        if (done + 1 < steps) arrive(of_group);
        mine.for_each_early([&](int i, int row) { store_step(row, kept[i]); });
    }
}

// dh_last is (rows, size), or null for zeros. transposed (size, 3 size) is the transposed recurrent
// weights. exchanged is scratch memory; see Exchange.
extern "C" __global__ void __launch_bounds__(threads, 1)
    persistent_backward(const T* dh, const T* dh_last, const T* h_prev, const T* r, const T* z,
                        const T* n, const T* gh_n, const T* transposed, T* dgx, T* dgh_n, T* dh0,
                        T* exchanged, const Index* lengths, unsigned* arrived, int steps, int rows,
                        int size, int rows_of_group, int units, int splits, int slots, int resident,
                        int reverse) {
    const Layout layout{steps, rows,  size,     rows_of_group, units,
                        splits, slots, resident, reverse};
    const int terms = 3 * size;
    const Share s = divide(layout, 1, terms);
    const Weights weights(transposed, s, 1, terms);
    const Exchange exchange(exchanged, s);
    keep(s, weights, 1, Part<1>::held);
    Part<1> part(s, warp());
    const auto held = part.hold(s, weights);
    const Mine mine(s);
    const int unit = s.first_unit + mine.unit;
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, lengths, rows, size};
    Kept<T> kept[early];
    GateGradients<float> gradients[early];
    bool padding[early];
    const auto load_ahead = [&](Index t) {
        mine.for_each_early(
            [&](int i, int row) { kept[i] = load(p, t, s.first_row + row, unit); });
        mine.for_each_later([&](int row) { fetch_ahead(p, t, s.first_row + row, unit); });
    };
    const auto take_state = [&](int row) {
        const Index at = Index(s.first_row + row) * size + unit;
        s.state[row * units + mine.unit] = dh_last ? widen(dh_last[at]) : 0.0f;
    };
    mine.for_each_early([&](int, int row) { take_state(row); });
    mine.for_each_later(take_state);
    load_ahead(reverse ? 0 : steps - 1);
    unsigned* of_group = arrived + s.group * line;
    for (int done = 0; done < steps; ++done) {
        const Index t = reverse ? done : steps - 1 - done;
        T* left = exchange.of(done);
        const auto gradients_of = [&](const Kept<T>& x, int row) {
            float& state = s.state[row * units + mine.unit];
            const float total = x.dh + state;
            const GateGradients<float> d = step(x, total);
            state = past(x, total);
            exchange.leave(left, row, unit, d.r);
            exchange.leave(left, row, size + unit, d.z);
            exchange.leave(left, row, 2 * size + unit, d.gh_n);
            return d;
        };
        mine.for_each_early([&](int i, int row) {
            gradients[i] = gradients_of(kept[i], row);
            padding[i] = kept[i].padding;
        });
        mine.for_each_later([&](int row) {
            const Index at = s.first_row + row;
            store(p, t, at, unit, gradients_of(load(p, t, at, unit), row));
        });
        arrive(of_group);
        mine.for_each_early(
            [&](int i, int row) { store(p, t, s.first_row + row, unit, gradients[i]); });
        if (done + 1 < steps) load_ahead(reverse ? t + 1 : t - 1);
        wait(of_group, s.columns, done + 1);
        product<1>(s, left, weights, part, held);
        // In padding the gradients are zero, but the product is not if a weight is infinite.
        const auto add = [&](bool is_padding, int row) {
            if (is_padding) return;
            float& state = s.state[row * units + mine.unit];
            state = state + Products<1>(s, row, mine.unit).of[0];
        };
        mine.for_each_early([&](int i, int row) { add(padding[i], row); });
        mine.for_each_later(
            [&](int row) { add(is_padding(lengths, t, s.first_row + row), row); });
    }
    const auto leave_state = [&](int row) {
        dh0[Index(s.first_row + row) * size + unit] = narrow<T>(s.state[row * units + mine.unit]);
    };
    mine.for_each_early([&](int, int row) { leave_state(row); });
    mine.for_each_later(leave_state);
}
