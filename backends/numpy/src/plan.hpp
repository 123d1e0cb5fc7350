// How many threads a call uses, and how they divide its work.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>

#include "drive.hpp"

namespace gru_xp {

// Returns `result`. Throws std::bad_alloc if it is null or false, which means out of memory.
template <class R>
R must(R result) {
    if (!result) throw std::bad_alloc();
    return result;
}

// count / by, rounded up.
inline ptrdiff_t divided(ptrdiff_t count, ptrdiff_t by) { return (count + by - 1) / by; }

// Range number `share` when [0, count) is divided into `shares` ranges. They are multiples of
// `unit`, except for the end of the last one, and as equal as that allows.
inline Range part(ptrdiff_t count, int share, int shares, ptrdiff_t unit = 1) {
    const ptrdiff_t units = divided(count, unit);
    const auto at = [&](int i) { return std::min(units * i / shares * unit, count); };
    return {at(share), at(share + 1)};
}

// Fewest floating-point operations in a call for which a second thread saves more than it costs.
constexpr double worth_sharing = 5e6;
// Fewest floating-point operations in one round for which threads may share its columns. With
// fewer, waiting for each other at the end of the round costs more than sharing saves. Fewer than
// ten rows count as ten, because reading the weights takes that long.
constexpr double worth_meeting = 1e6;
// Fewest numbers to read, as counted by `reading`, for which several threads share a call that
// reads each weight once. Memory bandwidth limits such a call.
constexpr double worth_reading = 2.5e5;

// Cost of multiplying `rows` rows by so many weights, as a count of numbers read. Up to about ten
// rows, reading the weights takes longer than computing; beyond that, the cost grows with the rows.
inline double reading(double weights, ptrdiff_t rows) {
    return weights * std::max(1.0, double(rows) / 10);
}
// Bytes of packed weights that stay in a core's own cache.
constexpr double core_cache = 1 << 20;
// Most rows of a tile, over all instruction sets.
constexpr ptrdiff_t tile_rows = 8;

// When the last call ended that had enough work for several threads, whether or not it was shared:
// nanoseconds of the steady clock.
inline std::atomic<int64_t> last_end{0};

// How many threads to use for a call with `work` units of work. With less than `least`, the answer
// is one; otherwise each thread gets at least least / 2.
//
// One thread does 2 * least in about 100 microseconds. A call shorter than that is shared only if
// it starts within `pause` of the end of the last call that could be shared. After a longer pause
// the workers are asleep, and waking them costs much of the time that sharing saves. It costs more
// than that where other threads occupy the processors, such as torch's, which spin while they wait
// for work.
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
    static constexpr int64_t pause = 200'000;  // nanoseconds

    int threads_ = 1;
    bool alone_ = false;
};

// How a recurrence is divided: into `shares` ranges of its rows, or else of its columns.
struct Plan {
    int shares;
    bool by_rows;
};

// Floating-point operations in one step of a recurrence.
inline double work_of_step(ptrdiff_t rows, ptrdiff_t size) {
    return 6.0 * double(rows) * double(size) * double(size);
}

// Divides a recurrence among at most `threads` threads. Its weights are 3 size^2 numbers of `bytes`
// bytes each, its columns can be divided into `vectors` vectors, and a step has `rounds_of_step`
// rounds.
inline Plan plan(int threads, ptrdiff_t rows, ptrdiff_t size, ptrdiff_t vectors, size_t bytes,
                 int rounds_of_step) {
    // 20 operations for each number read: two for each of ten rows.
    const double of_round = 20 * reading(3.0 * double(size) * double(size), rows) / rounds_of_step;
    if (threads == 1) return {1, true};
    const bool in_cache = 3.0 * double(size) * double(size) * double(bytes) <= core_cache;
    if (rows >= 4 * threads && in_cache) return {threads, true};
    if (of_round >= worth_meeting && vectors >= threads) return {threads, false};
    return {int(std::min(ptrdiff_t(threads), rows)), true};
}

// Rounds in one stage of a recurrence that is divided by rows. With one round per step, a stage
// takes about 200 microseconds; with two, about half of that. After each stage another thread can
// continue the share, in case the scheduler keeps its thread from running.
inline ptrdiff_t rounds_at_once(ptrdiff_t rows, int shares, ptrdiff_t size) {
    constexpr double operations = 1e7;
    const double of_step = work_of_step(divided(rows, shares), size);
    return std::max(ptrdiff_t(1), ptrdiff_t(operations / of_step));
}

// The stages of a recurrence, for `Team::run`. Stage 0 prepares; each later stage does `of_each` of
// the `all` rounds. Shares of rows wait for each other only after stage 0. Shares of columns wait
// for each other after every stage, which is then one round.
struct Stages {
    ptrdiff_t all, of_each, count, together;

    Stages(const Plan& way, int shares, ptrdiff_t rounds, ptrdiff_t rows, ptrdiff_t size)
        : all(rounds),
          of_each(shares == 1   ? rounds
                  : way.by_rows ? rounds_at_once(rows, shares, size)
                                : 1),
          count(1 + divided(rounds, of_each)),
          together(way.by_rows ? 1 : count) {}

    // The rounds of a stage other than stage 0.
    Range rounds(ptrdiff_t stage) const {
        return {(stage - 1) * of_each, std::min(stage * of_each, all)};
    }
};

// Rows of one share: whole tiles if each share has at least two of them, otherwise as equal as
// possible.
inline Range rows_of(ptrdiff_t rows, int share, int shares) {
    return part(rows, share, shares, rows >= 2 * tile_rows * shares ? tile_rows : 1);
}

}  // namespace gru_xp
