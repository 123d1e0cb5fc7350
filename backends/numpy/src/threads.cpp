#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace gru_xp {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A counter that threads can wait on. A waiting thread first spins, then sleeps until another
// thread increments the counter. Only the kernel is needed to wake a sleeping thread. With a mutex,
// a thread that holds it and is not running could delay the others.
class Event {
  public:
    uint32_t value() const { return value_.load(std::memory_order_acquire); }

    // Returns when the counter differs from `seen`, or when done() is true. done() is checked only
    // while spinning.
    template <class Done>
    void wait(uint32_t seen, Done done) {
        using clock = std::chrono::steady_clock;
        constexpr auto awake = std::chrono::microseconds(50);
        const auto start = clock::now();
        do {
            for (int i = 0; i < 32; ++i) {
                if (value() != seen || done()) return;
                relax();
            }
        } while (clock::now() - start < awake);
        sleepers_.fetch_add(1);
        while (value_.load() == seen) sleep(seen);
        sleepers_.fetch_sub(1);
    }

    // Increments the counter and wakes `wake_up` sleeping threads (without futexes: all of them).
    void add(int wake_up) {
        value_.fetch_add(1);
        // A waiting thread increments sleepers_ first and reads value_ after that; here it is the
        // other way round. So at least one of the two threads sees the change by the other.
        if (wake_up > 0 && sleepers_.load() > 0) wake(wake_up);
    }

  private:
#ifdef __linux__
    void sleep(uint32_t seen) {
        syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    }
    void wake(int count) {
        syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
    }
#else
    void sleep(uint32_t seen) { value_.wait(seen); }
    void wake(int) { value_.notify_all(); }
#endif

    alignas(64) std::atomic<uint32_t> value_{0};
    std::atomic<int> sleepers_{0};
};
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "a futex is 32 bits");

#ifdef __linux__
int processor() { return sched_getcpu(); }

// Moves the calling thread off `busy_processor` if it may run on another one. The scheduler tends
// to wake a thread on the processor of the thread that woke it, and takes milliseconds to notice
// that both are busy there.
void leave(int busy_processor) {
    cpu_set_t all, others, now;
    if (busy_processor < 0 || sched_getcpu() != busy_processor ||
        sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    others = all;
    CPU_CLR(busy_processor, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    // Restore the affinity. If it was all available processors, set a full mask: a container may
    // get more processors later.
    std::memset(&now, 0xFF, sizeof now);
    if (sched_setaffinity(0, sizeof now, &now) != 0 ||
        sched_getaffinity(0, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &all))
        sched_setaffinity(0, sizeof all, &all);
}
#else
int processor() { return -1; }
void leave(int) {}
#endif

thread_local int caller_limit = 0;  // the count of the thread's `ThreadLimit`, or 0

// State of a piece of work: the turn (the number of the `run` call) that it belongs to, its next
// stage, and whether it is taken. A piece is taken while a thread works on it and once it is done.
// All of this is in one word, so that a thread that is late by a turn fails to claim the piece.
class Place {
  public:
    explicit Place(uint64_t word) : word_(word) {}
    Place(uint32_t turn, uint64_t stage) : word_(uint64_t(turn) << 32 | stage << 1) {}

    uint64_t word() const { return word_; }
    uint32_t turn() const { return uint32_t(word_ >> 32); }
    uint64_t stage() const { return (word_ & 0xFFFFFFFF) >> 1; }
    bool taken() const { return word_ & 1; }
    Place as_taken() const { return Place(word_ | 1); }
    Place after() const { return Place(word_ + 2); }

  private:
    uint64_t word_;
};
constexpr ptrdiff_t most_stages = INT32_MAX;

// The workers and their current work. A pool is never destroyed once in use, because workers may
// outlive all static objects.
class Pool {
  public:
    Pool() : places_(new Aligned[size_t(most_threads())]) {}

    bool try_take() { return !taken_.exchange(true, std::memory_order_acquire); }
    void give_back() { taken_.store(false, std::memory_order_release); }

    // Grows to `count` workers if possible. Returns the number of workers.
    int grow(int count) {
        while (workers_ < count && take_leave()) ++workers_;  // one that was to end stays
        if (workers_ >= count) return workers_;
#if defined(__unix__) || defined(__APPLE__)
        // The program's own threads handle signals. Workers inherit a mask that blocks all signals
        // but those raised by a fault of the worker itself.
        sigset_t all, before;
        sigfillset(&all);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&all, fault);
        pthread_sigmask(SIG_BLOCK, &all, &before);
#endif
        try {
            for (; workers_ < count; ++workers_)
                std::thread([this, seen = turn_.value()] { work(seen); }).detach();
        } catch (const std::exception&) {  // out of threads or memory: use fewer
        }
#if defined(__unix__) || defined(__APPLE__)
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
        return workers_;
    }

    // Makes the workers beyond `count` end.
    void shrink(int count) {
        if (workers_ <= count) return;
        leaving_.fetch_add(workers_ - count);
        workers_ = count;
        turn_.add(INT_MAX);
    }

    // Runs the work on the calling thread and the pool's workers or, with a lender, on lent
    // threads. Returns false if a body did.
    bool run(const Team::Work& work, Lender lender) {
        const uint32_t turn = turn_.value() + 1;
        body_.store(work.body, std::memory_order_relaxed);
        context_.store(work.context, std::memory_order_relaxed);
        pieces_.store(work.pieces, std::memory_order_relaxed);
        stages_.store(uint64_t(work.stages), std::memory_order_relaxed);
        together_.store(uint64_t(std::min(work.together, work.stages)), std::memory_order_relaxed);
        caller_.store(processor(), std::memory_order_relaxed);
        failed_.store(false, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        for (int piece = 0; piece < work.pieces; ++piece)
            places_[piece].word.store(Place(turn, 0).word(), std::memory_order_relaxed);
        const int own_workers = lender ? 0 : std::min(work.pieces - 1, workers_);
        const int given = lender ? work.pieces - 1 : 0;  // tickets already issued: all or none
        tickets_.store(uint64_t(turn) << 32 | uint64_t(given), std::memory_order_relaxed);
        turn_.add(own_workers);
        if (lender)
            help_on_lent(turn, lender, work.pieces);
        else
            help(turn, 0);
        return !failed_.load(std::memory_order_relaxed);
    }

  private:
    struct Aligned {
        alignas(64) std::atomic<uint64_t> word{Place(0, 0).as_taken().word()};
    };
    enum class Found { work, nothing, end };

    // If workers are still due to end, takes one off their number and returns true: the caller
    // ends, or one worker stays after all.
    bool take_leave() {
        int left = leaving_.load();
        while (left > 0)
            if (leaving_.compare_exchange_weak(left, left - 1)) return true;
        return false;
    }

    void work(uint32_t seen) {
        for (;;) {
            turn_.wait(seen, [] { return false; });
            seen = turn_.value();
            if (take_leave()) return;
            const int own = ticket(seen);
            if (own <= 0) continue;
            leave(caller_.load(std::memory_order_relaxed));
            help(seen, own);
        }
    }

    // Issues the number of the piece that a worker tries first, from 1 on. Returns 0 if the turn
    // has enough workers or is over.
    int ticket(uint32_t turn) {
        uint64_t given = tickets_.load(std::memory_order_acquire);
        do {
            if (uint32_t(given >> 32) != turn) return 0;
            if (int(given & 0xFFFFFFFF) + 1 >= pieces_.load(std::memory_order_relaxed)) return 0;
        } while (!tickets_.compare_exchange_weak(given, given + 1, std::memory_order_acq_rel));
        return int(given & 0xFFFFFFFF) + 1;
    }

    // Does stages of a turn's work until all of it is done, starting with the piece `own`.
    void help(uint32_t turn, int own) {
        for (;;) {
            // Read before the search, so that stages finished during the search end the wait below.
            const uint32_t seen = stage_.value();
            const uint64_t done = done_.load(std::memory_order_acquire);
            switch (search(turn, own, done)) {
                case Found::end: return;
                case Found::work: continue;
                case Found::nothing: break;
            }
            stage_.wait(seen, [&] {
                return done_.load(std::memory_order_acquire) != done || turn_.value() != turn;
            });
        }
    }

    // The same on lent threads, at most one per piece. All of them have finished on return.
    //
    // Asks for as many threads as the lender's own work uses: an OpenMP library ends the threads
    // that a smaller call does not need, and later has to create them again.
    void help_on_lent(uint32_t turn, Lender lender, int pieces) {
        struct Borrowed {
            Pool& pool;
            uint32_t turn;
            int pieces;
            std::atomic<int> next{0};
        } borrowed{*this, turn, pieces};
        const auto body = [](void* context) {
            auto& [pool, of_turn, of_pieces, next] = *static_cast<Borrowed*>(context);
            if (const int piece = next.fetch_add(1); piece < of_pieces) pool.help(of_turn, piece);
        };
        lender(body, &borrowed, unsigned(caller_limit), 0);
    }

    // Does one stage of one piece, if any is ready. `end` means that the turn is over, `nothing`
    // that no stage was ready.
    Found search(uint32_t turn, int own, uint64_t done) {
        const int pieces = pieces_.load(std::memory_order_relaxed);
        const uint64_t stages = stages_.load(std::memory_order_relaxed);
        const uint64_t together = together_.load(std::memory_order_relaxed);
        for (int i = 0, piece = own; i < pieces; ++i, ++piece) {
            if (piece >= pieces) piece = 0;
            auto& word = places_[piece].word;
            const Place place(word.load(std::memory_order_acquire));
            if (place.turn() != turn) return Found::end;
            const uint64_t stage = place.stage();
            if (place.taken() || done < std::min(stage, together) * uint64_t(pieces)) continue;
            uint64_t expected = place.word();
            if (!word.compare_exchange_strong(expected, place.as_taken().word(),
                                              std::memory_order_acquire))
                continue;
            // The turn cannot end before this stage is done, so the values read above belong to it.
            do_stage(piece, ptrdiff_t(stage));
            const Place after = stage + 1 < stages ? place.after() : place.as_taken();
            word.store(after.word(), std::memory_order_release);
            const uint64_t now = done_.fetch_add(1, std::memory_order_acq_rel) + 1;
            const uint64_t all = stages * uint64_t(pieces);
            if (now == all || (now % uint64_t(pieces) == 0 && now <= together * uint64_t(pieces)))
                stage_.add(INT_MAX);
            return now == all ? Found::end : Found::work;
        }
        return done == stages * uint64_t(pieces) ? Found::end : Found::nothing;
    }

    void do_stage(int piece, ptrdiff_t stage) {
        if (failed_.load(std::memory_order_relaxed)) return;
        const auto body = body_.load(std::memory_order_relaxed);
        if (!body(context_.load(std::memory_order_relaxed), piece, stage))
            failed_.store(true, std::memory_order_relaxed);
    }

    std::atomic<bool> taken_{false};
    Event turn_;   // new work has come, or workers are to end
    Event stage_;  // all pieces have finished a common stage, or all work is done
    alignas(64) std::atomic<uint64_t> done_{0};  // finished stages, summed over all pieces
    alignas(64) std::atomic<uint64_t> tickets_{0};
    // The current work. The caller sets these values before the turn starts. They are atomic
    // because workers that are late by a turn also read them; the claims of those workers then
    // fail.
    std::atomic<bool (*)(const void*, int, ptrdiff_t)> body_{nullptr};
    std::atomic<const void*> context_{nullptr};
    std::atomic<int> pieces_{0}, caller_{-1}, leaving_{0};
    std::atomic<uint64_t> stages_{0}, together_{0};
    std::atomic<bool> failed_{false};
    int workers_ = 0;
    std::unique_ptr<Aligned[]> places_;
};

std::atomic<Pool*> current_pool{nullptr};
std::atomic<Lender> current_lender{nullptr};

// The variables below are initialised when the library is loaded, not at first use. If another
// thread forked during an initialisation at first use, it would never complete in the child.

// A forked child has the pool's memory but not its threads, so it starts with a new pool. It does
// not have the lender's threads either, for which the lender would wait.
#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int watched =
    pthread_atfork(nullptr, nullptr, [] {
        current_pool.store(nullptr);
        current_lender.store(nullptr);
    });
#endif

const int most = std::max(256, 4 * int(std::thread::hardware_concurrency()));

Pool& pool() {
    Pool* found = current_pool.load(std::memory_order_acquire);
    if (found) return *found;
    Pool* fresh = new Pool;
    if (current_pool.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
}

std::atomic<int> chosen_count{0};

// The value of OMP_NUM_THREADS, or the first value of a list for nested levels; 0 if there is none.
// It is read at load, because another thread may be changing the environment later.
const int wanted_by_environment = [] {
    const char* text = std::getenv("OMP_NUM_THREADS");
    return text ? std::atoi(text) : 0;
}();

std::string content(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

// Number of threads for which the container's CPU quota suffices, rounded up; 0 if there is no
// quota. The files are read once, or by several first callers at the same time.
int fed_by_quota() {
    int fed = 0;
#ifdef __linux__
    static std::atomic<int> known{-1};
    fed = known.load(std::memory_order_relaxed);
    if (fed < 0) {
        const double quota = cpu_quota(content("/proc/self/cgroup").c_str(), "/sys/fs/cgroup");
        known.store(fed = int(std::ceil(std::min(quota, 1e6))), std::memory_order_relaxed);
    }
#endif
    return fed;
}

int default_count() {
    int count = int(std::thread::hardware_concurrency());
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
#endif
    if (const int fed = fed_by_quota()) count = std::min(count, fed);
    if (wanted_by_environment > 0) count = std::min(count, wanted_by_environment);
    return std::min(std::max(count, 1), most_threads());
}

}  // namespace

int most_threads() { return most; }

int thread_count() {
    if (caller_limit > 0) return caller_limit;
    const int chosen = chosen_count.load(std::memory_order_relaxed);
    return chosen > 0 ? chosen : default_count();
}

ThreadLimit::ThreadLimit(int count) { caller_limit = std::min(std::max(count, 0), most_threads()); }

ThreadLimit::~ThreadLimit() { caller_limit = 0; }

void set_lender(Lender lender) { current_lender.store(lender); }

void set_thread_count(int count) {
    chosen_count.store(std::min(count, most_threads()), std::memory_order_relaxed);
    const int workers = thread_count() - 1;
    Pool* found = current_pool.load(std::memory_order_acquire);
    if (!found || !found->try_take()) return;  // the call that has the workers ends them
    found->shrink(workers);
    found->give_back();
}

double cpu_quota(const char* groups, const char* root) {
    double least = 0;
    const auto limit = [&](double quota, double period) {
        if (quota > 0 && period > 0 && (least == 0 || quota / period < least))
            least = quota / period;
    };
    std::istringstream lines(groups);
    for (std::string line; std::getline(lines, line);) {
        // A line is number:controllers:path. Version 2 has no controllers; the path starts at root.
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool unified = controllers.empty();
        if (!unified && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
        // A group's limit also holds for the groups below it, so check all groups up to the root.
        // In a container the path may be that of the host, while the mount is the container's own
        // group.
        std::string path = line.substr(second + 1);
        for (;;) {
            if (unified) {
                double quota = 0, period = 0;  // "max 100000" (no limit) is not read as a number
                std::istringstream text(content(root + path + "/cpu.max"));
                if (text >> quota >> period) limit(quota, period);
            } else {
                const std::string folder = root + std::string("/cpu") + path;
                double quota = 0, period = 0;  // a quota of -1 means no limit
                std::istringstream one(content(folder + "/cpu.cfs_quota_us"));
                std::istringstream other(content(folder + "/cpu.cfs_period_us"));
                if (one >> quota && other >> period) limit(quota, period);
            }
            const size_t slash = path.rfind('/');
            if (slash == std::string::npos || path == "/") break;
            path.resize(slash);
        }
    }
    return least;
}

Team::Team(int wanted) {
    if (wanted <= 1 || !pool().try_take()) return;
    wanted = std::min(wanted, most_threads());
    if (caller_limit > 0) lender_ = current_lender.load();
    size_ = lender_ ? wanted : pool().grow(wanted - 1) + 1;
    size_ = std::min(size_, wanted);
    if (size_ == 1) pool().give_back();
}

Team::~Team() {
    if (size_ == 1) return;
    // The thread count may have been reduced during the call.
    if (const int chosen = chosen_count.load()) pool().shrink(std::max(chosen, caller_limit) - 1);
    pool().give_back();
}

bool Team::run(const Work& work) {
    if (size_ > 1 && work.pieces > 1 && work.pieces <= most_threads() && work.stages > 0 &&
        work.stages <= most_stages)
        return pool().run(work, lender_);
    for (ptrdiff_t stage = 0; stage < work.stages; ++stage)
        for (int piece = 0; piece < work.pieces; ++piece)
            if (!work.body(work.context, piece, stage)) return false;
    return true;
}

}  // namespace gru_xp
