// The worker threads, and scratch memory.
#pragma once

#include <cstddef>

namespace gru_xp {

// The most threads that a call may use, including the calling thread.
//
// A `ThreadLimit` of the calling thread takes precedence over the count set by `set_thread_count`.
// Without either, it is the number of processors that the calling thread may use (CPU affinity, a
// container's quota), but at most OMP_NUM_THREADS. A worker has the CPU affinity of the thread
// whose call created it.
int thread_count();
// Sets the thread count, at most `most_threads`; 0 restores the default. Workers beyond the new
// count end. If a call is using the workers, they end after that call, but a change to 0 then ends
// none.
void set_thread_count(int count);
int most_threads();

// Limits the calls of the current thread to `count` threads while the object exists, whatever count
// is set globally. A count of 0 changes nothing. A thread may have only one such object at a time.
class ThreadLimit {
  public:
    explicit ThreadLimit(int count);
    ~ThreadLimit();
    ThreadLimit(const ThreadLimit&) = delete;
    ThreadLimit& operator=(const ThreadLimit&) = delete;
};

// A function that lends threads: it runs body(context) on `count` threads or fewer, including the
// calling thread, and returns when all of them have finished. `flags` is 0. GOMP_parallel of an
// OpenMP library is such a function.
using Lender = void (*)(void (*body)(void*), void* context, unsigned count, unsigned flags);
// Makes later calls under a `ThreadLimit` (other than 0) run on the lender's threads instead of
// workers. The lender's threads spin while they wait for its own work, and would keep workers off
// the processors. Null selects workers again, which is also the state of a forked child.
void set_lender(Lender lender);

// CPU time that the process may use, as a number of CPUs; 0 means no limit. `groups` is the text of
// /proc/self/cgroup, and `root` the directory where control groups are mounted.
double cpu_quota(const char* groups, const char* root);

// A team of at most `wanted` threads: the calling thread, and as many workers or lent threads as
// are available. Only one caller at a time has the workers or lent threads; meanwhile, the team of
// any other caller is the calling thread alone. A team's work must not create another team.
//
// The work consists of pieces, and each piece goes through the same stages in order. A free thread
// claims a piece that no other thread is working on, preferably its own, and does the next stage of
// that piece. So no thread waits for one that the scheduler keeps from running, unless that one was
// stopped in the middle of a stage. If other processes occupy the processors, the calling thread
// does the work that no worker comes to do. A lender, however, waits until each of its threads has
// run, even if no work is left for it.
class Team {
  public:
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Calls body(piece, stage) for every piece and stage. A stage from 1 to `together` starts when
    // all pieces have finished the stage before it; a later stage starts when its own piece has.
    // A stage sees everything that was written in the stages it had to wait for. If there are more
    // than `most_threads` pieces, the calling thread does all of them.
    //
    // Returns false if any call of body does; some of the remaining calls are then left out. body
    // must not throw: the first exception of a thread allocates memory, and if there is none, the
    // process ends.
    template <class F>
    [[nodiscard]] bool run(int pieces, ptrdiff_t stages, ptrdiff_t together, const F& body) {
        return run({pieces, stages, together,
                    [](const void* context, int piece, ptrdiff_t stage) {
                        return (*static_cast<const F*>(context))(piece, stage);
                    },
                    &body});
    }

    struct Work {
        int pieces;
        ptrdiff_t stages, together;
        bool (*body)(const void* context, int piece, ptrdiff_t stage);
        const void* context;
    };

  private:
    bool run(const Work& work);

    int size_ = 1;
    Lender lender_ = nullptr;
};

// Allocates up to four blocks of uninitialised memory, aligned to 64 bytes. The destructor releases
// them. Blocks that are not too large are kept for later calls on the same processor.
class Scratch {
  public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Memory for `count` objects; null if there is none.
    template <class T>
    __attribute__((always_inline)) T* take(ptrdiff_t count) {
        return static_cast<T*>(bytes(size_t(count) * sizeof(T)));
    }

  private:
    void* bytes(size_t count);

    static constexpr int most = 4;
    const int shelf_;
    int taken_ = 0;
    void* blocks_[most];
};

}  // namespace gru_xp
