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
// A thread computes the gates of one unit, for a chunk of `early` rows at a time. It loads the
// other inputs of the first chunk before it waits for the other blocks. It stores the outputs of the
// last chunk after it has signalled its arrival to them.
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

    // Calls f(chunk) for each chunk, given by its first row.
    template <class F>
    __device__ void for_each_chunk(const F& f) const {
#pragma unroll 1
        for (int chunk = first; chunk < rows; chunk += early * apart) f(chunk);
    }

    // Computes and stores all chunks, except that it does not store the last one, which it returns.
    // The inputs of the first chunk have been loaded.
    template <class Load, class Compute, class Store>
    __device__ int compute_chunks(const Load& load, const Compute& compute,
                                  const Store& store) const {
        int chunk = first;
#pragma unroll 1
        while (chunk < rows) {
            compute(chunk);
            const int next = chunk + early * apart;
            if (next >= rows) break;
            store(chunk);
            load(next);
            chunk = next;
        }
        return chunk;
    }

    // Calls f(row) for each row after the first chunk.
    template <class F>
    __device__ void for_each_later_row(const F& f) const {
#pragma unroll 1
        for (int row = first + early * apart; row < rows; row += apart) f(row);
    }

    // Calls f(i, row) for each row of a chunk; i is a compile-time constant.
    template <class F>
    __device__ void for_each_row(int chunk, const F& f) const {
#pragma unroll
        for (int i = 0; i < early; ++i)
            if (chunk + i * apart < rows) f(i, chunk + i * apart);
    }
};

// The lengths of a thread's rows. Those of the first chunk are in registers.
struct Lengths {
    const Index* of_rows;  // those of this block's rows, or null
    int of_first[early];

    __device__ Lengths(const Share& s, const Mine& mine, const Index* all, int steps)
        : of_rows(all ? all + s.first_row : nullptr) {
#pragma unroll
        for (int& length : of_first) length = steps;
        if (!all) return;
        mine.for_each_row(mine.first, [&](int i, int row) {
            const Index length = of_rows[row];  // unchecked, so it may need 64 bits
            if (length < steps) of_first[i] = length < 0 ? 0 : int(length);
        });
    }
};

// The rows of a chunk in a step. If there are fewer than `early`, code without branches computes the
// others too, with the sums and the state of the first row and with any inputs. Nothing uses the
// results.
struct Chunk {
    int row[early];
    int padding[early] = {};  // whether the step is padding

    __device__ Chunk(const Mine& mine, const Lengths& lengths, int t, int first) {
#pragma unroll
        for (int i = 0; i < early; ++i) {
            const int at = first + i * mine.apart;
            row[i] = at < mine.rows ? at : first;
        }
        if (first == mine.first) {
#pragma unroll
            for (int i = 0; i < early; ++i) padding[i] = t >= lengths.of_first[i];
        } else {
            mine.for_each_row(
                first, [&](int i, int at) { padding[i] = is_padding(lengths.of_rows, t, at); });
        }
#pragma unroll
        for (int& each : padding) each = once(each);
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
    const Lengths of_thread(s, mine, lengths, steps);
    const Index state = Index(rows) * size;
    const int unit = s.first_unit + mine.unit;
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, rows, size};
    const float b = unit < size ? bias(p, unit) : 0.0f;
    Input<T> input[early] = {};
    Gates<float> computed[early];
    const T* h0 = states + (reverse ? steps * state : 0);
    mine.for_each_chunk([&](int chunk) {
        mine.for_each_row(chunk, [&](int, int row) {
            const float h = widen(h0[Index(s.first_row + row) * size + unit]);
            s.state[row * units + mine.unit] = h;
            exchange.leave(exchange.of(0), row, unit, h);
        });
    });
    unsigned* of_group = arrived + s.group * line;
    arrive(of_group);
    for (int done = 0; done < steps; ++done) {
        const int t = reverse ? steps - 1 - done : done;
        const auto load_chunk = [&](int chunk) {
            mine.for_each_row(
                chunk, [&](int i, int row) { input[i] = load(p, t, s.first_row + row, unit); });
        };
        load_chunk(mine.first);
        mine.for_each_later_row([&](int row) { fetch_ahead(p, t, s.first_row + row, unit); });
        wait(of_group, s.columns, done + 1);
        product<3>(s, exchange.of(done), weights, part, held);
        T* left = exchange.of(done + 1);
        const auto compute_chunk = [&](int first) {
            const Chunk chunk(mine, of_thread, t, first);
            const Products<3, early> gh(s, chunk.row, mine.unit);
            float h[early];
#pragma unroll
            for (int i = 0; i < early; ++i) {
                const float(&sums)[3] = gh.of[i];
                const float before = s.state[chunk.row[i] * units + mine.unit];
                computed[i] = step(input[i], chunk.padding[i], sums[0], sums[1], sums[2] + b);
                h[i] = next(computed[i], chunk.padding[i], before);
            }
            mine.for_each_row(first, [&](int i, int row) {
                s.state[row * units + mine.unit] = h[i];
                exchange.leave(left, row, unit, h[i]);
            });
        };
        T* h_next = states + (reverse ? t : t + 1) * state;
        const auto store_chunk = [&](int chunk) {
            mine.for_each_row(chunk, [&](int i, int row) {
                const Index at = s.first_row + row;
                h_next[at * size + unit] = narrow<T>(s.state[row * units + mine.unit]);
                store(p, t, at, unit, computed[i]);
            });
        };
        const int last = mine.compute_chunks(load_chunk, compute_chunk, store_chunk);
        if (done + 1 < steps) arrive(of_group);
        store_chunk(last);
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
    const Lengths of_thread(s, mine, lengths, steps);
    const int unit = s.first_unit + mine.unit;
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, rows, size};
    Kept<T> kept[early] = {};
    GateGradients<float> gradients[early];
    const auto load_chunk = [&](int t, int chunk) {
        mine.for_each_row(
            chunk, [&](int i, int row) { kept[i] = load(p, t, s.first_row + row, unit); });
    };
    const auto load_ahead = [&](int t) {
        load_chunk(t, mine.first);
        mine.for_each_later_row([&](int row) { fetch_ahead(p, t, s.first_row + row, unit); });
    };
    mine.for_each_chunk([&](int chunk) {
        mine.for_each_row(chunk, [&](int, int row) {
            const Index at = Index(s.first_row + row) * size + unit;
            s.state[row * units + mine.unit] = dh_last ? widen(dh_last[at]) : 0.0f;
        });
    });
    load_ahead(reverse ? 0 : steps - 1);
    unsigned* of_group = arrived + s.group * line;
    for (int done = 0; done < steps; ++done) {
        const int t = reverse ? done : steps - 1 - done;
        T* left = exchange.of(done);
        const auto load_later = [&](int chunk) { load_chunk(t, chunk); };
        const auto compute_chunk = [&](int first) {
            const Chunk chunk(mine, of_thread, t, first);
            float state[early];
#pragma unroll
            for (int i = 0; i < early; ++i) {
                const float total = widen(kept[i].dh) + s.state[chunk.row[i] * units + mine.unit];
                gradients[i] = step(kept[i], chunk.padding[i], total);
                state[i] = past(kept[i], chunk.padding[i], total);
            }
            mine.for_each_row(first, [&](int i, int row) {
                s.state[row * units + mine.unit] = state[i];
                exchange.leave(left, row, unit, gradients[i].r);
                exchange.leave(left, row, size + unit, gradients[i].z);
                exchange.leave(left, row, 2 * size + unit, gradients[i].gh_n);
            });
        };
        const auto store_chunk = [&](int chunk) {
            mine.for_each_row(chunk, [&](int i, int row) {
                store(p, t, s.first_row + row, unit, gradients[i]);
            });
        };
        const int last = mine.compute_chunks(load_later, compute_chunk, store_chunk);
        arrive(of_group);
        store_chunk(last);
        if (done + 1 < steps) load_ahead(reverse ? t + 1 : t - 1);
        wait(of_group, s.columns, done + 1);
        product<1>(s, left, weights, part, held);
        mine.for_each_chunk([&](int first) {
            const Chunk chunk(mine, of_thread, t, first);
            const Products<1, early> sums(s, chunk.row, mine.unit);
            mine.for_each_row(first, [&](int i, int row) {
                // The gradients are zero, but the product is not if a weight is infinite.
                if (chunk.padding[i]) return;
                float& state = s.state[row * units + mine.unit];
                state = state + sums.of[i][0];
            });
        });
    }
    mine.for_each_chunk([&](int chunk) {
        mine.for_each_row(chunk, [&](int, int row) {
            const float dh_first = s.state[row * units + mine.unit];
            dh0[Index(s.first_row + row) * size + unit] = narrow<T>(dh_first);
        });
    });
}
