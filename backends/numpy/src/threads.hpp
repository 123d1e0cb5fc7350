// Threads that wait for work, and memory to work in.
#pragma once

#include <atomic>
#include <cstddef>

namespace gru_xp {

// Upper bound on the threads of one call, the calling thread included. As long as it has not been
// set it is what the process may run on (CPU affinity), and at most OMP_NUM_THREADS.
int thread_count();
void set_thread_count(int count);

// A task's shares; all of them run at once.
using Task = void (*)(void* context, int share);

// The calling thread and as many workers as are to be had, at most `wanted` together. While
// another caller has the workers, a team is the calling thread alone: a task must be right for
// any number of shares. No team may be made within a task.
class Team {
  public:
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // body(share) for every share in [0, size), share 0 on the calling thread.
    template <class F>
    void run(F&& body) {
        run([](void* context, int share) { (*static_cast<F*>(context))(share); }, &body);
    }

  private:
    void run(Task task, void* context);

    int size_ = 1;
};

// All shares of a team wait here for one another; may be used again at once.
class Barrier {
  public:
    explicit Barrier(int shares) : shares_(shares) {}

    // False if a share has abandoned the others: then what they wait for is not there.
    [[nodiscard]] bool wait();

    // Lets the others go on, and return, where a share cannot.
    void abandon() { abandoned_.store(true, std::memory_order_release); }

  private:
    const int shares_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> turn_{0};
    std::atomic<bool> abandoned_{false};
};

// Memory of a thread, aligned to 64 bytes and not initialised, given back at the end of the scope.
// Small blocks are kept for the thread's next call.
class Scratch {
  public:
    Scratch() = default;
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Throws std::bad_alloc.
    template <class T>
    __attribute__((always_inline)) T* take(ptrdiff_t count) {
        return static_cast<T*>(bytes(size_t(count) * sizeof(T)));
    }

  private:
    void* bytes(size_t count);

    static constexpr int most = 4;
    int taken_ = 0;
    struct {
        void* data;
        size_t size;
    } blocks_[most];
};

}  // namespace gru_xp
