// The recurrence as one launch for all steps, with the recurrent weights on the chip.
//
// The rows of the batch are dealt out to groups of blocks, which have nothing to do with one
// another. In a group a block owns `units` hidden units, and keeps their weights in its shared
// memory, as far as they fit: forward the rows of their three gates, backward those of the
// transposed weights. What does not fit is read again in each step. In each step a block multiplies
// what the blocks of its group have left of the step before, in global memory, with its weights, and
// computes its units' gates. Warps share the product by rows, by columns and by `splits` of its
// terms, whose sums are added in order. The state, and the gradient of the state, stay in float.
//
// What a step needs besides is loaded before the wait for the other blocks, and what it leaves for
// the caller is stored after they have been told to go on.
//
// The tile, one of those in tile.cuh, `early` and `streams` are macros of the compilation. size must be a
// multiple of the numbers in 16 bytes, and the arrays aligned to 16 bytes; units a multiple of the
// tile's columns and at most as many as a block has threads.
#include "grid.cuh"
#include "tile.cuh"
#include "units.cuh"

using namespace gru_xp;

using Tile = GRU_XP_TILE;
using T = Tile::T;

namespace {

constexpr int threads = 256, warps = threads / warp_lanes;
constexpr int block_terms = block_bytes / sizeof(T), lane_terms = lane_bytes / sizeof(T);
// Of a thread's rows, how many have their numbers loaded a step ahead.
constexpr int early = GRU_XP_EARLY;
constexpr bool streams = GRU_XP_STREAMS;  // whether there are weights that are not resident
constexpr int line = 32;  // words from one group's count of arrivals to the next

// What all kernels are told of their launch, in the order of its last arguments.
struct Layout {
    int steps, rows, size;
    int rows_of_group, units, splits, slots, resident, reverse;
};

struct Share {
    int first_unit, units;  // of the hidden units
    int first_row, rows;    // of the batch's
    int size, splits, slots;
    int blocks;    // of terms in a row of weights
    int resident;  // of each split, from its first on, how many are in shared memory
    int stride;    // terms from one row to the next there
    int columns, group;  // blocks of a group, and which group this is
    int row_sums;  // from one row's sums to the next
    T* weights;  // (gates * units, stride)
    float* sums;  // (slots, rows, row_sums), of which gates * units are used
    float* state;  // (rows, units)
};

// Divides the block's shared memory for a product of `terms` terms for `gates` gates.
__device__ Share divide(const Layout& p, int gates, int terms) {
    Share s;
    s.columns = (p.size + p.units - 1) / p.units;
    s.group = blockIdx.x / s.columns;
    s.first_unit = blockIdx.x % s.columns * p.units;
    s.units = p.units;
    s.first_row = s.group * p.rows_of_group;
    s.rows = min(p.rows_of_group, p.rows - s.first_row);
    s.size = p.size;
    s.splits = p.splits;
    s.slots = p.slots;
    s.blocks = (terms + block_terms - 1) / block_terms;
    s.resident = p.resident;
    // An odd number of 64 bytes, so that the 16 bytes of 8 lanes lie in different banks.
    s.stride = (s.splits * s.resident | 1) * block_terms;
    s.weights = reinterpret_cast<T*>(shared_memory());
    s.sums = reinterpret_cast<float*>(s.weights + gates * s.units * s.stride);
    // 8 or 24 banks further, so that the two numbers of 16 lanes lie in different banks.
    s.row_sums = gates * s.units;
    while (s.row_sums % 16 != 8) s.row_sums += 8;
    s.state = s.sums + s.slots * p.rows_of_group * s.row_sums;
    return s;
}

// The weights of a product in global memory: rows of `terms`, of a gate one for each hidden unit.
struct Weights {
    const T* rows;
    int terms, size;

    // 16 bytes of them as the tile takes them, zeros where there are none.
    __device__ uint4 at(int gate, int unit, int term) const {
        uint4 bytes{0, 0, 0, 0};
        if (unit < size && term < terms)
            bytes = *reinterpret_cast<const uint4*>(rows + ((gate * size + unit) * terms + term));
        return Tile::resident(bytes);
    }
};

// The first block of terms of a split, of as many as `splits` for the one behind the last.
__device__ int first_of(const Share& s, int split) { return s.blocks * split / s.splits; }

__device__ void keep(const Share& s, const Weights& weights, int gates) {
    constexpr int lanes = block_terms / lane_terms;
    const int kept = s.splits * s.resident;
    for (int i = threadIdx.x; i < gates * s.units * kept * lanes; i += threads) {
        const int row = i / (kept * lanes), block = i / lanes % kept, place = i % lanes;
        const int split = block / s.resident, k = first_of(s, split) + block % s.resident;
        if (k >= first_of(s, split + 1)) continue;
        *reinterpret_cast<uint4*>(s.weights + row * s.stride + block * block_terms +
                                  place * lane_terms) =
            weights.at(row / s.units, s.first_unit + row % s.units,
                       k * block_terms + place * lane_terms);
    }
}

// What a lane has of a warp's part of a product: a tile of rows and of units, one of the splits.
template <int Gates>
struct Part {
    static constexpr int columns = Gates * Tile::across;
    int split, unit, first_row;  // of the block's
    typename Tile::template Sums<columns> sums;

    // `rows` (rows, terms): what the blocks have left, behind the first cache, which would not see
    // that they have.
    template <int Ahead>
    __device__ void load(uint4 (&a)[Ahead][Tile::loads], const Share& s, const T* rows, int terms,
                         int k, int end) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            const int term = (k + j) * block_terms + place() * lane_terms;
#pragma unroll
            for (int i = 0; i < Tile::loads; ++i) {
                const int row = first_row + Tile::row(i);
                a[j][i] = uint4{0, 0, 0, 0};
                if (k + j < end && row < s.rows && term < terms)
                    a[j][i] = __ldcg(reinterpret_cast<const uint4*>(rows + row * terms + term));
            }
        }
    }

    template <int Ahead>
    __device__ void add_resident(const uint4 (&a)[Ahead][Tile::loads], const Share& s,
                                 const T* weights, int k, int end) {
#pragma unroll
        for (int j = 0; j < Ahead; ++j) {
            if (k + j >= end) break;
            uint4 b[columns];
#pragma unroll
            for (int g = 0; g < columns; ++g) {
                const int row = g / Tile::across * s.units + g % Tile::across * tile_columns;
                b[g] = load_kept(weights + row * s.stride + (k + j) * block_terms);
            }
            Tile::add(sums, a[j], b);
        }
    }

    // While one half of the registers is used, the other is loaded.
    __device__ void multiply_resident(const Share& s, const T* rows, int terms, int begin,
                                      int end) {
        const T* weights = s.weights + (unit + group()) * s.stride +
                           (split * s.resident - begin) * block_terms + place() * lane_terms;
        uint4 a[2][Tile::ahead][Tile::loads];
        load(a[0], s, rows, terms, begin, end);
        for (int k = begin; k < end; k += 2 * Tile::ahead) {
            load(a[1], s, rows, terms, k + Tile::ahead, end);
            add_resident(a[0], s, weights, k, end);
            load(a[0], s, rows, terms, k + 2 * Tile::ahead, end);
            add_resident(a[1], s, weights, k + Tile::ahead, end);
        }
    }

    template <int Ahead>
    __device__ void load_weights(uint4 (&b)[Ahead][columns], const Share& s,
                                 const Weights& weights, int k, int end) const {
#pragma unroll
        for (int j = 0; j < Ahead; ++j)
#pragma unroll
            for (int g = 0; g < columns; ++g)
                b[j][g] = weights.at(
                    g / Tile::across,
                    s.first_unit + unit + g % Tile::across * tile_columns + group(),
                    k + j < end ? (k + j) * block_terms + place() * lane_terms : weights.terms);
    }

    __device__ void multiply_streamed(const Share& s, const T* rows, int terms,
                                      const Weights& weights, int begin, int end) {
        // More would not fit into the registers.
        constexpr int both = columns + Tile::loads, ahead = both > 8 ? 1 : 16 / both;
        for (int k = begin; k < end; k += ahead) {
            uint4 a[ahead][Tile::loads], b[ahead][columns];
            load_weights(b, s, weights, k, end);
            load(a, s, rows, terms, k, end);
#pragma unroll
            for (int j = 0; j < ahead; ++j) Tile::add(sums, a[j], b[j]);
        }
    }

    __device__ void multiply(const Share& s, const T* rows, int terms, const Weights& weights) {
        const int begin = first_of(s, split), end = first_of(s, split + 1);
        const int kept = min(begin + s.resident, end);
        multiply_resident(s, rows, terms, begin, kept);
        if (streams) multiply_streamed(s, rows, terms, weights, kept, end);
    }

    __device__ void leave(const Share& s, bool first) const {
        Tile::finish(sums, [&](int g, int row, int column, Tile::Stored sum) {
            const int of_block = first_row + row;
            if (of_block >= s.rows) return;
            const int of_slot = split % s.slots * s.rows + of_block;
            const int at = g / Tile::across * s.units + unit + g % Tile::across * tile_columns;
            float* of_row = s.sums + of_slot * s.row_sums + at + column;
            Tile::Stored& kept = *reinterpret_cast<Tile::Stored*>(of_row);
            kept = first ? sum : plus(kept, sum);
        });
    }
};

// Leaves in s.sums the product of (rows, terms) and the block's weights, in `slots` summands.
template <int Gates>
__device__ void product(const Share& s, const T* rows, int terms, const Weights& weights) {
    const int row_tiles = (s.rows + Tile::rows - 1) / Tile::rows;
    const int unit_tiles = s.units / (Tile::across * tile_columns);
    const int parts = row_tiles * unit_tiles * s.splits, turns = s.splits / s.slots;
    // A power of two each, so that all splits of a sum are computed in the same round.
    for (int round = 0; round < parts; round += warps) {
        const int item = round + int(threadIdx.x) / warp_lanes;
        Part<Gates> part;
        part.split = item % s.splits;
        part.unit = item / s.splits % unit_tiles * (Tile::across * tile_columns);
        part.first_row = item / s.splits / unit_tiles * Tile::rows;
        if (item < parts) part.multiply(s, rows, terms, weights);
        for (int turn = 0; turn < turns; ++turn) {
            if (item < parts && part.split / s.slots == turn) part.leave(s, turn == 0);
            if (turn + 1 < turns) __syncthreads();
        }
    }
    __syncthreads();
}

// What a thread computes the gates of: one hidden unit, and every `apart`-th row from `first` on.
struct Mine {
    int unit, first, apart;  // of the block's
    int rows;                // the block's; none for a thread without a unit

    __device__ explicit Mine(const Share& s) {
        apart = threads / s.units;
        unit = threadIdx.x % s.units;
        first = threadIdx.x / s.units;
        rows = first < apart && s.first_unit + unit < s.size ? s.rows : 0;
    }

    // f(i, row) for the first rows, where i is a constant.
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

// The products of all gates for one of the block's rows and units.
template <int Gates>
struct Products {
    float of[Gates] = {};

    __device__ Products(const Share& s, int row, int unit) {
        const float* at = s.sums + row * s.row_sums + unit;
#pragma unroll 4
        for (int slot = 0; slot < s.slots; ++slot, at += s.rows * s.row_sums)
#pragma unroll
            for (int g = 0; g < Gates; ++g) of[g] = of[g] + at[g * s.units];
    }
};

}  // namespace

// states (steps + 1, rows, size): the initial state first, or last in reverse.
extern "C" __global__ void __launch_bounds__(threads, 1)
    persistent_forward(const T* gx, const T* weight_hh, const T* b_hn, T* states, T* r, T* z, T* n,
                       T* gh_n, const Index* lengths, unsigned* arrived, int steps, int rows,
                       int size, int rows_of_group, int units, int splits, int slots, int resident,
                       int reverse) {
    const Layout layout{steps, rows,  size,     rows_of_group, units,
                        splits, slots, resident, reverse};
    const Share s = divide(layout, 3, size);
    const Weights weights{weight_hh, size, size};
    keep(s, weights, 3);
    const Mine mine(s);
    const Index state = Index(rows) * size, unit = s.first_unit + mine.unit;
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, lengths, rows, size};
    Input<T> input[early];
    Gates<float> kept[early];
    const auto load_early = [&](Index t) {
        mine.for_each_early(
            [&](int i, int row) { input[i] = load(p, t, s.first_row + row, unit); });
    };
    const T* h0 = states + (reverse ? steps * state : 0);
    const auto take_state = [&](int row) {
        s.state[row * units + mine.unit] = widen(h0[Index(s.first_row + row) * size + unit]);
    };
    mine.for_each_early([&](int, int row) { take_state(row); });
    mine.for_each_later(take_state);
    load_early(reverse ? steps - 1 : 0);
    __syncthreads();
    unsigned* of_group = arrived + s.group * line;
    for (int done = 0; done < steps; ++done) {
        const Index t = reverse ? steps - 1 - done : done;
        const T* h = states + (reverse ? t + 1 : t) * state;
        T* h_next = states + (reverse ? t : t + 1) * state;
        product<3>(s, h + Index(s.first_row) * size, size, weights);
        const auto gates_of = [&](const Input<T>& x, int row) {
            const Products<3> gh(s, row, mine.unit);
            const Gates<float> g = step<T>(x, gh.of[0], gh.of[1], gh.of[2]);
            float& h_t = s.state[row * units + mine.unit];
            h_t = next(x, g, h_t);
            h_next[Index(s.first_row + row) * size + unit] = narrow<T>(h_t);
            return g;
        };
        mine.for_each_early([&](int i, int row) { kept[i] = gates_of(input[i], row); });
        mine.for_each_later([&](int row) {
            const Index at = s.first_row + row;
            store(p, t, at, unit, gates_of(load(p, t, at, unit), row));
        });
        const bool last = done + 1 == steps;
        if (!last) arrive(of_group);
        mine.for_each_early(
            [&](int i, int row) { store(p, t, s.first_row + row, unit, kept[i]); });
        if (last) break;
        load_early(reverse ? t - 1 : t + 1);
        wait(of_group, s.columns, done + 1);
    }
}

// dh_last (rows, size), or null for zeros. transposed (size, 3 size): the recurrent weights. dgh (2, rows, 3 size), for the kernel alone: of the
// current step and of the one before it, which some blocks may still be reading.
extern "C" __global__ void __launch_bounds__(threads, 1)
    persistent_backward(const T* dh, const T* dh_last, const T* h_prev, const T* r, const T* z,
                        const T* n, const T* gh_n, const T* transposed, T* dgx, T* dgh_n, T* dh0,
                        T* dgh, const Index* lengths, unsigned* arrived, int steps, int rows,
                        int size, int rows_of_group, int units, int splits, int slots, int resident,
                        int reverse) {
    const Layout layout{steps, rows,  size,     rows_of_group, units,
                        splits, slots, resident, reverse};
    const int terms = 3 * size;
    const Share s = divide(layout, 1, terms);
    const Weights weights{transposed, terms, size};
    keep(s, weights, 1);
    const Mine mine(s);
    const Index unit = s.first_unit + mine.unit;
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, lengths, rows, size};
    Kept<T> kept[early];
    GateGradients<float> gradients[early];
    bool padding[early];
    const auto load_early = [&](Index t) {
        mine.for_each_early(
            [&](int i, int row) { kept[i] = load(p, t, s.first_row + row, unit); });
    };
    const auto take_state = [&](int row) {
        const Index at = Index(s.first_row + row) * size + unit;
        s.state[row * units + mine.unit] = dh_last ? widen(dh_last[at]) : 0.0f;
    };
    mine.for_each_early([&](int, int row) { take_state(row); });
    mine.for_each_later(take_state);
    load_early(reverse ? 0 : steps - 1);
    __syncthreads();
    unsigned* of_group = arrived + s.group * line;
    for (int done = 0; done < steps; ++done) {
        const Index t = reverse ? done : steps - 1 - done;
        T* left = dgh + done % 2 * Index(rows) * terms;
        const auto gradients_of = [&](const Kept<T>& x, int row) {
            float& state = s.state[row * units + mine.unit];
            const float total = x.dh + state;
            const GateGradients<float> d = step(x, total);
            state = past(x, total);
            T* of_row = left + Index(s.first_row + row) * terms + unit;
            of_row[0] = narrow<T>(d.r);
            of_row[size] = narrow<T>(d.z);
            of_row[2 * size] = narrow<T>(d.gh_n);
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
        if (done + 1 < steps) load_early(reverse ? t + 1 : t - 1);
        wait(of_group, s.columns, done + 1);
        product<1>(s, left + Index(s.first_row) * terms, terms, weights);
        // In padding the product is of zeros, yet not zero where a weight is infinite.
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
