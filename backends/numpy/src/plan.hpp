// How a call is shared among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

#include "drive.hpp"

namespace gru_xp {

// What there was memory for; throws std::bad_alloc if there was none.
template <class R>
R must(R result) {
    if (!result) throw std::bad_alloc();
    return result;
}

inline ptrdiff_t divided(ptrdiff_t count, ptrdiff_t by) { return (count + by - 1) / by; }

// Share `share` of [0, count) in pieces of `unit`, as even as they go.
inline Range part(ptrdiff_t count, int share, int shares, ptrdiff_t unit = 1) {
    const ptrdiff_t units = divided(count, unit);
    const auto at = [&](int i) { return std::min(units * i / shares * unit, count); };
    return {at(share), at(share + 1)};
}

// Floating operations below which a second thread costs more than it saves.
constexpr double worth_sharing = 5e6;
// Of one round, below which waiting for one another at its end does; of few rows those of ten, as
// reading the weights takes so long.
constexpr double worth_meeting = 1e6;
// Weights read once a call are bound by memory: numbers below which one thread reads them.
constexpr double worth_reading = 2.5e5;

// Numbers that are read for so many weights, and for so many rows by who computes as fast as some ten
// rows' weights are read.
inline double reading(double weights, ptrdiff_t rows) {
    return weights * std::max(1.0, double(rows) / 10);
}
// Packed weights that a core keeps in its own cache.
constexpr double core_cache = 1 << 20;
// Rows that a tile takes at most, whatever the instruction set.
constexpr ptrdiff_t tile_rows = 8;

// When the last call that several threads could have shared ended, by the steady clock.
inline std::atomic<int64_t> last_end{0};

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
inline double work_of_step(ptrdiff_t rows, ptrdiff_t size) {
    return 6.0 * double(rows) * double(size) * double(size);
}

// How so many threads share a recurrence whose weights have 3 size^2 numbers of `bytes` bytes.
inline Plan plan(int threads, ptrdiff_t rows, ptrdiff_t size, ptrdiff_t vectors, size_t bytes,
                 int rounds_of_step) {
    // Twenty operations a number that is read: two for each of ten rows.
    const double of_round = 20 * reading(3.0 * double(size) * double(size), rows) / rounds_of_step;
    if (threads == 1) return {1, true};
    const bool in_cache = 3.0 * double(size) * double(size) * double(bytes) <= core_cache;
    if (rows >= 4 * threads && in_cache) return {threads, true};
    if (of_round >= worth_meeting && vectors >= threads) return {threads, false};
    return {int(std::min(ptrdiff_t(threads), rows)), true};
}

// Rounds of a share of rows that are one stage: some 200 microseconds, after which another thread
// may go on where the first is kept from running.
inline ptrdiff_t rounds_at_once(ptrdiff_t rows, int shares, ptrdiff_t size) {
    constexpr double operations = 1e7;
    const double of_step = work_of_step(divided(rows, shares), size);
    return std::max(ptrdiff_t(1), ptrdiff_t(operations / of_step));
}

// How the shares of a recurrence go through it: first they prepare, then so many rounds a stage. Those
// of rows do not wait for one another any more then, those of columns do at every round.
struct Stages {
    ptrdiff_t all, of_each, count, together;

    Stages(const Plan& way, int shares, ptrdiff_t rounds, ptrdiff_t rows, ptrdiff_t size)
        : all(rounds),
          of_each(shares == 1   ? rounds
                  : way.by_rows ? rounds_at_once(rows, shares, size)
                                : 1),
          count(1 + divided(rounds, of_each)),
          together(way.by_rows ? 1 : count) {}

    // Those of a stage after the first.
    Range rounds(ptrdiff_t stage) const {
        return {(stage - 1) * of_each, std::min(stage * of_each, all)};
    }
};

inline Range rows_of(ptrdiff_t rows, int share, int shares) {
    return part(rows, share, shares, rows >= 2 * tile_rows * shares ? tile_rows : 1);
}

}  // namespace gru_xp
