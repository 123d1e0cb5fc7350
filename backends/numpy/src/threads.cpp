#include "threads.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#ifdef __linux__
#include <sched.h>
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
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

inline void give_way() {
#if defined(__unix__) || defined(__APPLE__)
    sched_yield();
#else
    std::this_thread::yield();
#endif
}

// Waits until `done`, or for so many turns: some microseconds awake, then giving way in every turn.
// Two threads that the scheduler has put onto one processor would otherwise wait for the end of
// each other's time slice.
template <class Done>
bool wait_awake(int turns, Done done) {
    constexpr int awake = 50;  // a pause takes some 20 to 50 ns
    for (int i = 0; i < awake; ++i) {
        if (done()) return true;
        relax();
    }
    for (int i = 0; i < turns; ++i) {
        if (done()) return true;
        give_way();
    }
    return done();
}

template <class Done>
void wait_awake(Done done) {
    while (!wait_awake(1 << 20, done)) {
    }
}

#ifdef __linux__
int processor() { return sched_getcpu(); }

// Moves the calling thread off a processor, if it may run on another. The scheduler likes to wake a
// thread where it was woken from, and takes milliseconds to see that both are busy there.
void leave(int busy_processor) {
    cpu_set_t all, others;
    if (sched_getcpu() != busy_processor || sched_getaffinity(0, sizeof all, &all) != 0) return;
    others = all;
    CPU_CLR(busy_processor, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof all, &all);
}
#else
int processor() { return -1; }
void leave(int) {}
#endif

constexpr int worker_turns = 100;  // of some 300 ns, before it sleeps

// Workers, and the one task that they have. Never destroyed: they may outlive everything static.
class Pool {
  public:
    bool try_take() { return taken_.try_lock(); }
    void give_back() { taken_.unlock(); }

    // Grows to `count` workers if it can; returns how many there are.
    int grow(int count) {
        if (workers_ >= count) return workers_;
#if defined(__unix__) || defined(__APPLE__)
        // Signals are for the threads of the program: workers inherit that they are blocked.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
#endif
        try {
            for (; workers_ < count; ++workers_)
                std::thread([this, number = workers_ + 1, seen = turn_.load()] {
                    work(number, seen);
                }).detach();
        } catch (const std::exception&) {  // no thread, or no memory for one: fewer do
        }
#if defined(__unix__) || defined(__APPLE__)
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
        return workers_;
    }

    void run(int shares, Task task, void* context) {
        task_ = task;
        context_ = context;
        shares_ = shares;
        caller_ = processor();
        error_ = nullptr;
        // Every worker reads the task, also those that have no share, so that none is late for
        // the next one.
        busy_.store(workers_, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(sleep_);
            turn_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        do_share(0);
        wait_awake([&] { return busy_.load(std::memory_order_acquire) == 0; });
        if (error_) std::rethrow_exception(error_);
    }

  private:
    void do_share(int share) noexcept {
        try {
            task_(context_, share);
        } catch (...) {
            std::lock_guard<std::mutex> lock(sleep_);
            if (!error_) error_ = std::current_exception();
        }
    }

    void work(int number, unsigned seen) {
        for (;;) {
            const auto called = [&] { return turn_.load(std::memory_order_acquire) != seen; };
            if (!wait_awake(worker_turns, called)) {
                std::unique_lock<std::mutex> lock(sleep_);
                wake_.wait(lock, called);
            }
            ++seen;
            if (number < shares_) {
                leave(caller_);
                do_share(number);
            }
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex taken_, sleep_;
    std::condition_variable wake_;
    std::atomic<unsigned> turn_{0};
    alignas(64) std::atomic<int> busy_{0};
    int workers_ = 0, shares_ = 0, caller_ = -1;
    Task task_ = nullptr;
    void* context_ = nullptr;
    std::exception_ptr error_;
};

std::atomic<Pool*> current_pool{nullptr};

// A fork has the pool's memory, but not its threads: the child starts with a new one.
Pool& pool() {
    Pool* found = current_pool.load(std::memory_order_acquire);
    if (found) return *found;
#if defined(__unix__) || defined(__APPLE__)
    static const int watched =
        pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
    (void)watched;
#endif
    Pool* fresh = new Pool;
    if (current_pool.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
    return *found;
}

std::atomic<int> chosen_count{0};

// OMP_NUM_THREADS, of a list for nested levels the first, or 0. Read when the library is loaded:
// later another thread may be changing the environment.
const int wanted_by_environment = [] {
    const char* text = std::getenv("OMP_NUM_THREADS");
    return text ? std::atoi(text) : 0;
}();

int default_count() {
    int count = int(std::thread::hardware_concurrency());
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
#endif
    if (wanted_by_environment > 0) count = std::min(count, wanted_by_environment);
    return std::max(count, 1);
}

// One thread's memory of blocks that it is not using.
struct Kept {
    static constexpr size_t most = size_t(1) << 22;
    static constexpr int places = 4;
    struct {
        void* data = nullptr;
        size_t size = 0;
    } blocks[places];

    ~Kept() {
        for (auto& block : blocks) std::free(block.data);
    }
};

thread_local Kept kept;

void* allocate(size_t size) {
    constexpr size_t page = size_t(1) << 21;
    const size_t alignment = size >= page ? page : 64;
    void* data = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (!data) throw std::bad_alloc();
#ifdef __linux__
    if (size >= page) madvise(data, size, MADV_HUGEPAGE);
#endif
    return data;
}

}  // namespace

int thread_count() {
    const int chosen = chosen_count.load(std::memory_order_relaxed);
    return chosen > 0 ? chosen : default_count();
}

void set_thread_count(int count) { chosen_count.store(count, std::memory_order_relaxed); }

Team::Team(int wanted) {
    if (wanted <= 1 || !pool().try_take()) return;
    size_ = std::min(wanted, pool().grow(wanted - 1) + 1);
    if (size_ == 1) pool().give_back();
}

Team::~Team() {
    if (size_ > 1) pool().give_back();
}

void Team::run(Task task, void* context) {
    if (size_ > 1)
        pool().run(size_, task, context);
    else
        task(context, 0);
}

bool Barrier::wait() {
    const int turn = turn_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == shares_) {
        arrived_.store(0, std::memory_order_relaxed);
        turn_.store(turn + 1, std::memory_order_release);
    } else {
        wait_awake([&] {
            return turn_.load(std::memory_order_acquire) != turn ||
                   abandoned_.load(std::memory_order_acquire);
        });
    }
    return !abandoned_.load(std::memory_order_acquire);
}

void* Scratch::bytes(size_t count) {
    const size_t size = std::max((count + 63) / 64 * 64, size_t(64));
    auto& block = blocks_[taken_];
    block = {nullptr, size};
    for (auto& free : kept.blocks)
        if (free.size >= size) {
            block = {free.data, free.size};
            free = {nullptr, 0};
            break;
        }
    if (!block.data) block.data = allocate(size);
    ++taken_;
    return block.data;
}

Scratch::~Scratch() {
    while (taken_ > 0) {
        auto& block = blocks_[--taken_];
        if (block.size <= Kept::most)
            for (auto& free : kept.blocks)  // the smaller ones make room
                if (free.size < block.size) {
                    std::swap(free.data, block.data);
                    std::swap(free.size, block.size);
                }
        std::free(block.data);
    }
}

}  // namespace gru_xp
