// Threads that wait for work, and memory to work in.
#pragma once

#include <cstddef>

namespace gru_xp {

// Upper bound on the threads of one call, the calling thread included. As long as it has not been
// set it is what the calling thread may run on (CPU affinity, a container's quota), and at most
// OMP_NUM_THREADS. Workers may run where the thread whose call made them might.
// A `ThreadLimit` takes its place.
int thread_count();
// Sets it, 0 for the default again, but at most `most_threads`. Threads beyond it end, after the
// call that they are in.
void set_thread_count(int count);
int most_threads();

// While it lives, the calling thread's calls use at most so many threads, whatever has been set for
// all; 0 changes nothing. No two may live at a time.
class ThreadLimit {
  public:
    explicit ThreadLimit(int count);
    ~ThreadLimit();
    ThreadLimit(const ThreadLimit&) = delete;
    ThreadLimit& operator=(const ThreadLimit&) = delete;
};

// Runs body(context) on `count` threads, the calling thread among them, or on fewer, and returns once
// all have come back from it; `flags` are 0. GOMP_parallel of an OpenMP library is such a function.
using Lender = void (*)(void (*body)(void*), void* context, unsigned count, unsigned flags);
// From then on calls within a `ThreadLimit` run on the lender's threads, which wait awake for its
// own work and would keep workers from the processors; null: on workers again, as in a fork's child.
void set_lender(Lender lender);

// CPUs' worth of time that a control group, of /proc/self/cgroup's text, may use; 0 for no limit.
// `root` is where control groups are mounted.
double cpu_quota(const char* groups, const char* root);

// The calling thread and as many workers, or lent threads, as are to be had, at most `wanted`
// together. While another caller has them, a team is the calling thread alone. No team may be made
// within a team's work.
//
// Work is pieces, each of which goes through stages, one after another. Who is free takes a piece
// that nobody has and does its next stage, its own piece before others'. So nobody waits for a
// thread that the scheduler keeps from running, unless it was stopped in the middle of a stage:
// where other processes want the processors too, the caller does what no worker comes to do. Of
// lent threads the lender waits until each has come, though there may be nothing left for it to do.
class Team {
  public:
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // body(piece, stage) for every piece and stage. A stage from 1 to `together` begins once all
    // pieces have done the one before it; a later one, once its own piece has. What was written in
    // stages that must be done is seen. At most `most_threads` pieces.
    //
    // False if a body returned that, and then some of the rest is not done. No body may throw: the
    // first exception of a thread needs memory, without which the process ends.
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

// Memory aligned to 64 bytes and not initialised, given back at the end of the scope; at most four
// blocks. Small ones are kept for the next calls on this processor.
class Scratch {
  public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Null where there is no memory.
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
