// Runs CUDA kernels on the CPU under ThreadSanitizer. Each CUDA thread is an operating-system
// thread.
//
// This file replaces cuda_on_cpu.hpp, and defines the same names for device.cuh. Two accesses are a
// race unless the kernel's source orders them: by the barrier of a block, or by a release and an
// acquire. Anything else here that orders threads must be hidden from the sanitizer, for example an
// exchange within a warp, which does not order memory on a GPU. Blocks must not share objects that
// order them as a side effect. std::barrier does so: it keeps waiting threads in a table of the
// process.
//
// The L1 cache of a block, which does not see the writes of other blocks, is not modelled. Instead,
// only __ldcg may read what another block has written in this launch. To check this, the
// sanitizer's functions for plain accesses are wrapped, by the linker's --wrap.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_names.hpp"

#define GRU_XP_UNSEEN __attribute__((no_sanitize("thread")))

extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void AnnotateIgnoreSyncBegin(const char*, int);
void AnnotateIgnoreSyncEnd(const char*, int);
}

namespace on_cpu {

inline void count_instruction() {}
inline void count_kept() {}
inline void count_read_only() {}


constexpr unsigned lanes = 32;
constexpr int stale_read = 67;  // exit status

// While such an object exists, the sanitizer ignores what this thread does.
struct Unseen {
    Unseen() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
        AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
    }
    ~Unseen() {
        AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
};

struct Meeting {
    pthread_barrier_t barrier;

    explicit Meeting(unsigned members) { pthread_barrier_init(&barrier, nullptr, members); }
    Meeting(const Meeting&) = delete;
    ~Meeting() { pthread_barrier_destroy(&barrier); }
    void meet() { pthread_barrier_wait(&barrier); }
};

struct Warp {
    Meeting meeting;
    std::array<unsigned, 6> words[2][lanes];  // words that the lanes exchange, in turns
};

struct Block {
    uint3 index;
    Meeting meeting;
    std::vector<uint4> bytes;
    unsigned char* shared;
    std::vector<std::unique_ptr<Warp>> warps;
};

struct Thread {
    uint3 index;
    Block* block;
    Warp* warp;
    unsigned exchanges = 0;
};

struct Launch {
    uint3 grid, block;
    Thread* running;  // this thread
};

inline thread_local Launch* launch = nullptr;

// Passes the words of this lane to the other lanes of the warp, and returns theirs.
template <size_t N>
std::array<std::array<unsigned, 6>, lanes> exchange(const unsigned (&own)[N]) {
    const Unseen unseen;
    Thread& thread = *launch->running;
    auto& words = thread.warp->words[thread.exchanges++ % 2];
    std::copy(own, own + N, words[thread.index.x % lanes].begin());
    thread.warp->meeting.meet();
    return std::to_array(words);
}

// Global memory, and for each two bytes the block that last wrote them, counted from 1.
struct Memory {
    char* begin = nullptr;
    size_t bytes = 0;
    unsigned char* writers = nullptr;
};

inline Memory memory;

template <size_t bytes>
GRU_XP_UNSEEN inline void write(const void* at) {
    const size_t first = static_cast<const char*>(at) - memory.begin;
    if (!launch || first >= memory.bytes) return;
    for (size_t i = first / 2; i < (first + bytes + 1) / 2; ++i)
        __atomic_store_n(memory.writers + i, launch->running->block->index.x + 1,
                         __ATOMIC_RELAXED);
}

template <size_t bytes>
GRU_XP_UNSEEN inline void read(const void* at) {
    const size_t first = static_cast<const char*>(at) - memory.begin;
    if (!launch || first >= memory.bytes) return;
    for (size_t i = first / 2; i < (first + bytes + 1) / 2; ++i) {
        const unsigned writer = __atomic_load_n(memory.writers + i, __ATOMIC_RELAXED);
        if (!writer || writer == launch->running->block->index.x + 1) continue;
        std::fputs("a plain read of what another block has written\n", stderr);
        _exit(stale_read);
    }
}

// The argument that a word stands for: a number, or an offset in global memory, where 0 is null.
template <class P>
P argument(std::int64_t word) {
    if constexpr (std::is_pointer_v<P>)
        return word ? reinterpret_cast<P>(memory.begin + word) : nullptr;
    else
        return static_cast<P>(word);
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), const std::int64_t* words, std::index_sequence<I...>) {
    kernel(argument<P>(words[I])...);
}

template <class... P>
void run(void (*kernel)(P...), unsigned count, unsigned threads, size_t shared) {
    std::vector<std::unique_ptr<Block>> blocks;
    for (unsigned b = 0; b < count; ++b) {
        auto& block = *blocks.emplace_back(new Block{{b, 0, 0}, Meeting(threads), {}, {}, {}});
        block.bytes.assign((shared + 15) / 16, {~0u, ~0u, ~0u, ~0u});  // NaN, if read too early
        block.shared = reinterpret_cast<unsigned char*>(block.bytes.data());
        for (unsigned w = 0; w < threads / lanes; ++w)
            block.warps.emplace_back(new Warp{Meeting(lanes), {}});
    }
    std::vector<std::thread> running;
    for (auto& block : blocks)
        for (unsigned t = 0; t < threads; ++t)
            running.emplace_back([=, block = block.get()] {
                Thread thread{{t, 0, 0}, block, block->warps[t / lanes].get()};
                Launch own{{count, 1, 1}, {threads, 1, 1}, &thread};
                launch = &own;
                const auto words = reinterpret_cast<const std::int64_t*>(memory.begin);
                call(kernel, words, std::index_sequence_for<P...>{});
                launch = nullptr;
            });
    for (auto& thread : running) thread.join();
}

// Runs a kernel on a file that serves as global memory. It contains the arguments, one word each,
// and then the arrays. `words`: program, kernel, blocks, threads, bytes of shared memory, file.
template <class... P>
int run(void (*kernel)(P...), char** words) {
    std::FILE* file = std::fopen(words[5], "r+b");
    if (!file) return EXIT_FAILURE;
    std::fseek(file, 0, SEEK_END);
    std::vector<uint4> bytes(std::ftell(file) / sizeof(uint4));
    std::vector<unsigned char> writers(bytes.size() * sizeof(uint4) / 2);
    memory = {reinterpret_cast<char*>(bytes.data()), bytes.size() * sizeof(uint4), writers.data()};
    std::rewind(file);
    if (std::fread(memory.begin, 1, memory.bytes, file) != memory.bytes) return EXIT_FAILURE;
    run(kernel, std::atoi(words[2]), std::atoi(words[3]), std::atoi(words[4]));
    std::rewind(file);
    const bool whole = std::fwrite(memory.begin, 1, memory.bytes, file) == memory.bytes;
    return std::fclose(file) || !whole;
}

}  // namespace on_cpu

#define GRU_XP_WRAP(access, call)                                                                \
    extern "C" void __real___tsan_##call(void*);                                                 \
    extern "C" GRU_XP_UNSEEN void __wrap___tsan_##call(void* at) {                               \
        __real___tsan_##call(at);                                                                \
        on_cpu::access(at);                                                                      \
    }
#define GRU_XP_WRAP_ALIGNED(n) GRU_XP_WRAP(read<n>, read##n) GRU_XP_WRAP(write<n>, write##n)
#define GRU_XP_WRAP_BOTH(n)                                                                      \
    GRU_XP_WRAP_ALIGNED(n)                                                                       \
    GRU_XP_WRAP(read<n>, unaligned_read##n)                                                      \
    GRU_XP_WRAP(write<n>, unaligned_write##n)
GRU_XP_WRAP_ALIGNED(1)
GRU_XP_WRAP_BOTH(2)
GRU_XP_WRAP_BOTH(4)
GRU_XP_WRAP_BOTH(8)
GRU_XP_WRAP_BOTH(16)

#define threadIdx (on_cpu::launch->running->index)
#define blockIdx (on_cpu::launch->running->block->index)
#define blockDim (on_cpu::launch->block)
#define gridDim (on_cpu::launch->grid)

inline void __syncthreads() { on_cpu::launch->running->block->meeting.meet(); }
inline void __nanosleep(unsigned) { std::this_thread::yield(); }
GRU_XP_UNSEEN inline uint4 __ldcg(const uint4* at) {
    __real___tsan_read16(const_cast<uint4*>(at));  // not the wrapped one
    return *at;
}
inline float __shfl_xor_sync(unsigned, float value, unsigned mask) {
    const unsigned lane = threadIdx.x % on_cpu::lanes;
    return __uint_as_float(on_cpu::exchange({__float_as_uint(value)})[lane ^ mask][0]);
}
