#include "drive.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>

#include "processor.hpp"

namespace gru_xp {
namespace {

const InstructionSet* supported(const char* name) {
#ifdef GRU_XP_X86
    if (!std::strcmp(name, "avx512")) return has_avx512() ? &avx512 : nullptr;
    if (!std::strcmp(name, "avx2")) return has_avx2() ? &avx2 : nullptr;
#endif
    return std::strcmp(name, "plain") ? nullptr : &plain;
}

const InstructionSet* best() {
    for (const char* name : {"avx512", "avx2"})
        if (const InstructionSet* found = supported(name)) return found;
    return &plain;
}

std::atomic<const InstructionSet*> chosen{nullptr};

template <class T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels<float>() {
    return instruction_set().f32;
}
template <>
const Kernels<double>& kernels<double>() {
    return instruction_set().f64;
}

// What there was memory for; throws std::bad_alloc if there was none.
template <class R>
R must(R result) {
    if (!result) throw std::bad_alloc();
    return result;
}

ptrdiff_t divided(ptrdiff_t count, ptrdiff_t by) { return (count + by - 1) / by; }

// Share `share` of [0, count) in pieces of `unit`, as even as they go.
Range part(ptrdiff_t count, int share, int shares, ptrdiff_t unit = 1) {
    const ptrdiff_t units = divided(count, unit);
    const auto at = [&](int i) { return std::min(units * i / shares * unit, count); };
    return {at(share), at(share + 1)};
}

// Floating operations below which a second thread costs more than it saves.
constexpr double worth_sharing = 5e6;
// Of one step, below which waiting for one another at its end does.
constexpr double worth_meeting = 1e6;
// Weights read once a call are bound by memory: numbers below which one thread reads them.
constexpr double worth_reading = 2.5e5;
// Packed weights that a core keeps in its own cache.
constexpr double core_cache = 1 << 20;
// Rows that a tile takes at most, whatever the instruction set.
constexpr ptrdiff_t tile_rows = 8;

// When the last call that several threads could have shared ended, by the steady clock.
std::atomic<int64_t> last_end{0};

// How many threads a call wants, of so much work, of which `least` is worth sharing.
//
// Twice that takes one thread some 100 microseconds. So short a call is shared only if it follows
// another: after a pause the workers sleep, to wake them takes much of what they save, and where
// other threads take the processors, as torch's do that wait for their next work, more.
class Wanted {
  public:
    Wanted(double work, double least) {
        if (work < least) return;
        threads_ = int(std::min(work / (least / 2), double(thread_count())));
        const bool is_short = work < 2 * least;
        if (threads_ > 1 && is_short && now() - last_end.load(std::memory_order_relaxed) > pause)
            alone_ = true;
    }
    ~Wanted() {
        if (threads_ > 1) last_end.store(now(), std::memory_order_relaxed);
    }
    Wanted(const Wanted&) = delete;
    Wanted& operator=(const Wanted&) = delete;

    int threads() const { return alone_ ? 1 : threads_; }

  private:
    using clock = std::chrono::steady_clock;
    static int64_t now() {
        return std::chrono::nanoseconds(clock::now().time_since_epoch()).count();
    }
    static constexpr int64_t pause = 200'000;

    int threads_ = 1;
    bool alone_ = false;
};

struct Plan {
    int shares;
    bool by_rows;
};

// Floating operations of one step of a recurrence.
double work_of_step(ptrdiff_t rows, ptrdiff_t size) {
    return 6.0 * double(rows) * double(size) * double(size);
}

// How so many threads share a recurrence whose weights have 3 size^2 numbers of `bytes` bytes.
Plan plan(int threads, ptrdiff_t rows, ptrdiff_t size, ptrdiff_t vectors, size_t bytes) {
    const double of_step = work_of_step(rows, size);
    if (threads == 1) return {1, true};
    const bool in_cache = 3.0 * double(size) * double(size) * double(bytes) <= core_cache;
    if (rows >= 4 * threads && in_cache) return {threads, true};
    if (of_step >= worth_meeting && vectors >= threads) return {threads, false};
    return {int(std::min(ptrdiff_t(threads), rows)), true};
}

// Steps of a share of rows that are one stage: some 200 microseconds, after which another thread
// may go on where the first is kept from running.
ptrdiff_t steps_at_once(ptrdiff_t rows, int shares, ptrdiff_t size) {
    constexpr double operations = 1e7;
    const double of_step = work_of_step(divided(rows, shares), size);
    return std::max(ptrdiff_t(1), ptrdiff_t(operations / of_step));
}

// How the shares of a recurrence go through it: first they prepare, then so many steps a stage. Those
// of rows do not wait for one another any more then, those of vectors do at every step.
struct Stages {
    ptrdiff_t all, of_each, count, together;

    Stages(const Plan& way, int shares, ptrdiff_t steps, ptrdiff_t rows, ptrdiff_t size)
        : all(steps),
          of_each(shares == 1   ? steps
                  : way.by_rows ? steps_at_once(rows, shares, size)
                                : 1),
          count(1 + divided(steps, of_each)),
          together(way.by_rows ? 1 : count) {}

    // Those of a stage after the first.
    Range steps(ptrdiff_t stage) const {
        return {(stage - 1) * of_each, std::min(stage * of_each, all)};
    }
};

Range rows_of(ptrdiff_t rows, int share, int shares) {
    return part(rows, share, shares, rows >= 2 * tile_rows * shares ? tile_rows : 1);
}

}  // namespace

const InstructionSet& instruction_set() {
    const InstructionSet* found = chosen.load(std::memory_order_relaxed);
    if (!found) chosen.store(found = best(), std::memory_order_relaxed);
    return *found;
}

const InstructionSet* choose_instruction_set(const char* name) {
    const InstructionSet* found = supported(name);
    if (found) chosen.store(found, std::memory_order_relaxed);
    return found;
}

template <class T>
void product(const Product<T>& p) {
    const auto& k = kernels<T>();
    const ptrdiff_t vectors = divided(p.columns, k.width);
    const double work = 2.0 * double(p.rows) * double(p.depth) * double(p.columns);
    const Wanted wanted(work, worth_sharing);
    Team team(wanted.threads());
    // By columns nothing is packed twice. A matrix that is interleaved is so by whoever reads it.
    const bool by_rows = p.rows >= 64 * team.size() && (p.a_step != 1 || vectors < 24 * team.size());
    must(team.run(team.size(), 1, 0, [&](int share, ptrdiff_t) {
        if (by_rows) return k.product(p, part(p.rows, share, team.size(), tile_rows), {0, vectors});
        return k.product(p, {0, p.rows}, part(vectors, share, team.size(), 3));
    }));
}

template <class T>
void forward(Forward<T> p) {
    if (p.steps == 0 || p.rows == 0) return;
    const auto& k = kernels<T>();
    const ptrdiff_t units = divided(p.size, k.width);
    const Wanted wanted(work_of_step(p.rows, p.size) * double(p.steps), worth_sharing);
    const Plan way = plan(wanted.threads(), p.rows, p.size, units, sizeof(T));
    Scratch scratch;
    Team team(way.shares);
    const int shares = team.size();
    // The weights of one step are packed where they are used: there is nothing to prepare.
    T* packed = p.steps > 1 ? must(scratch.take<T>(3 * units * k.width * p.size)) : nullptr;
    p.packed = packed;
    const Stages stages(way, shares, p.steps, p.rows, p.size);
    const ptrdiff_t first = packed ? 0 : 1;
    const auto body = [&](int share, ptrdiff_t stage) {
        stage += first;
        if (stage == 0) {
            const Range r = part(3 * units, share, shares);
            k.pack_forward(packed + r.begin * p.size * k.width, p.weight_hh, p.size, r);
            return true;
        }
        const Range rows = way.by_rows ? rows_of(p.rows, share, shares) : Range{0, p.rows};
        const Range own = way.by_rows ? Range{0, units} : part(units, share, shares);
        return k.forward(p, rows, own, stages.steps(stage));
    };
    must(team.run(shares, stages.count - first, stages.together - first, body));
}

template <class T>
void backward(Backward<T> p, const T* weight_hh) {
    if (p.steps == 0 || p.rows == 0) return;
    const auto& k = kernels<T>();
    const ptrdiff_t vectors = divided(p.size, k.width);
    const Wanted wanted(work_of_step(p.rows, p.size) * double(p.steps), worth_sharing);
    const Plan way = plan(wanted.threads(), p.rows, p.size, vectors, sizeof(T));
    Scratch scratch;
    Team team(way.shares);
    const int shares = team.size();
    // Weights that are used once are not worth packing.
    const bool once = p.steps == 1 && p.rows == 1;
    T* packed = once ? nullptr : must(scratch.take<T>(3 * vectors * k.width * p.size));
    p.packed = packed;
    p.weight_hh = weight_hh;
    const Stages stages(way, shares, p.steps, p.rows, p.size);
    must(team.run(shares, stages.count, stages.together, [&](int share, ptrdiff_t stage) {
        const Range packs = part(vectors, share, shares);
        const Range rows = way.by_rows ? rows_of(p.rows, share, shares) : Range{0, p.rows};
        const Range own = way.by_rows ? Range{0, vectors} : packs;
        if (stage == 0) {
            if (packed)
                k.pack_backward(packed + 3 * packs.begin * p.size * k.width, weight_hh, p.size,
                                packs);
            k.backward_start(p, rows, own);
            return true;
        }
        return k.backward(p, rows, own, stages.steps(stage));
    }));
}

template <class T>
void step(const Step<T>& p) {
    if (p.rows == 0) return;
    const auto& k = kernels<T>();
    const ptrdiff_t columns = 3 * p.size, state = p.rows * p.size;
    const ptrdiff_t vectors = divided(columns, k.width), units = divided(p.size, k.width);
    Scratch scratch;
    T* states = must(scratch.take<T>(2 * state));
    T* gx = must(scratch.take<T>(p.rows * columns + columns));
    if (p.h)
        std::memcpy(states, p.h, size_t(state) * sizeof(T));
    else
        std::fill_n(states, state, T(0));
    T* bias = nullptr;
    if (p.bias_ih) {
        bias = gx + p.rows * columns;
        for (ptrdiff_t i = 0; i < columns; ++i)
            bias[i] = i < 2 * p.size ? p.bias_ih[i] + p.bias_hh[i] : p.bias_ih[i];
    }
    const Product<T> input{p.x,  p.input_size, 1,  p.weight_ih, 1,      p.input_size,
                           bias, gx,           p.rows, p.input_size, columns};
    Forward<T> f{};
    f.steps = 1;
    f.rows = p.rows;
    f.size = p.size;
    f.gx = gx;
    f.weight_hh = p.weight_hh;
    f.b_hn = p.bias_hh ? p.bias_hh + 2 * p.size : nullptr;
    f.states = states;
    const double weights = double(columns) * double(p.input_size + p.size);
    const Wanted wanted(weights, worth_reading);
    Team team(wanted.threads());
    const int shares = team.size();
    must(team.run(shares, 2, 2, [&](int share, ptrdiff_t stage) {
        if (stage == 0) return k.product(input, {0, p.rows}, part(vectors, share, shares));
        return k.forward(f, {0, p.rows}, part(units, share, shares), {0, 1});
    }));
    std::memcpy(p.h_next, states + state, size_t(state) * sizeof(T));
}

template <class T>
double multiply_add_rate(double seconds) {
    using clock = std::chrono::steady_clock;
    const auto& k = kernels<T>();
    const auto start = clock::now();
    double best = 0, passed = 0;
    ptrdiff_t rounds = 1000;
    while (passed < seconds) {
        const auto from = clock::now();
        const double done = k.multiply_adds(rounds);
        const std::chrono::duration<double> took = clock::now() - from;
        if (took.count() < 0.002)
            rounds *= 2;
        else
            best = std::max(best, done / took.count());
        passed = std::chrono::duration<double>(clock::now() - start).count();
    }
    return best;
}

#define GRU_XP_INSTANTIATE(T)                  \
    template void product(const Product<T>&);  \
    template void forward(Forward<T>);         \
    template void backward(Backward<T>, const T*); \
    template void step(const Step<T>&);        \
    template double multiply_add_rate<T>(double);

GRU_XP_INSTANTIATE(float)
GRU_XP_INSTANTIATE(double)

}  // namespace gru_xp
