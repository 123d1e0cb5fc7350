// Runs CUDA kernels on the CPU. Each thread is a fiber, which runs until it has to wait.
//
// The next fiber is drawn from a seed, so different seeds give different orders of events. If no
// fiber can continue, that is reported as a deadlock. This file defines only what the kernels use
// of CUDA C++. It must be included before their source.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_names.hpp"

namespace on_cpu {

enum Outcome { finished = 0, deadlock = 1, shared_memory_overrun = 2 };

constexpr unsigned lanes = 32;
constexpr size_t stack_bytes = 64 << 10, guard_bytes = 64 << 10;
constexpr unsigned char guard = 0xA5;

// A point at which fibers wait until all of them have arrived.
struct Meeting {
    unsigned members = 0, come = 0, turn = 0;
};

struct Warp {
    Meeting meeting;
    unsigned words[2][lanes][6];  // words that the lanes exchange, in turns
};

struct Block {
    uint3 index;
    Meeting meeting;
    std::vector<unsigned char> bytes;
    unsigned char* shared;  // the first of `bytes` that is aligned to 16 bytes
    std::vector<Warp> warps;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Block* block;
    uint3 thread;
    unsigned loads = 0;  // loads that bypass the L1 cache
    const Meeting* waits_at = nullptr;
    unsigned waits_for = 0;
    bool spins = false, done = false;

    bool can_go_on() const { return !done && !(waits_at && waits_at->turn != waits_for); }
};

struct Launch {
    uint3 grid, block;
    std::vector<Block> blocks;
    std::vector<Fiber> fibers;
    Fiber* running = nullptr;
    ucontext_t scheduler;
    void (*body)(void*);
    void* context;

    void pause() { swapcontext(&running->context, &scheduler); }
};

inline Launch* launch = nullptr;

// Counts of the last launch, summed over all threads.
struct Counts {
    unsigned long long loaded = 0;        // bytes of loads that bypass the L1 cache
    unsigned long long kept = 0;          // bytes of weights from shared memory
    unsigned long long read_only = 0;     // bytes of weights from global memory
    unsigned long long instructions = 0;  // of tensor cores, counted by each lane
    // Lines of 128 bytes that a warp's loads touch, if they bypass the L1 cache: warp, load, line.
    std::set<std::tuple<const void*, unsigned, uintptr_t>> lines;
};
inline Counts counts;
inline void count_instruction() { ++counts.instructions; }
inline void count_kept() { counts.kept += sizeof(uint4); }
inline void count_read_only() { counts.read_only += sizeof(uint4); }

inline void meet(Meeting& meeting) {
    const unsigned turn = meeting.turn;
    if (++meeting.come == meeting.members) {
        meeting.come = 0;
        ++meeting.turn;
        return;
    }
    launch->running->waits_at = &meeting;
    launch->running->waits_for = turn + 1;
    launch->pause();
    launch->running->waits_at = nullptr;
}

inline Warp& warp() {
    return launch->running->block->warps[launch->running->thread.x / lanes];
}

// Passes the words of this lane to the other lanes of the warp, and returns theirs.
template <size_t N>
const unsigned (*exchange(const unsigned (&own)[N]))[6] {
    Warp& w = warp();
    const unsigned which = w.meeting.turn % 2;
    std::copy(own, own + N, w.words[which][launch->running->thread.x % lanes]);
    meet(w.meeting);
    return w.words[which];
}

inline void start() {
    launch->body(launch->context);
    launch->running->done = true;
}

// Continues each fiber that can continue, once. Returns false if all of them only kept waiting.
inline bool round(Launch& l, std::vector<Fiber*>& order, std::mt19937& random) {
    std::shuffle(order.begin(), order.end(), random);
    bool progress = false;
    for (Fiber* fiber : order) {
        if (!fiber->can_go_on()) continue;
        const bool span = std::exchange(fiber->spins, false);
        l.running = fiber;
        swapcontext(&l.scheduler, &fiber->context);
        progress = progress || !span || !fiber->spins;
    }
    return progress;
}

// Runs all fibers until they are done. With an even seed all blocks advance at about the same pace;
// with an odd one each block runs as far as it can before the next one starts, as on a GPU it may.
inline Outcome schedule(Launch& l, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<Fiber*>> groups(seed % 2 ? l.blocks.size() : 1);
    for (Fiber& fiber : l.fibers)
        groups[seed % 2 ? fiber.block - l.blocks.data() : 0].push_back(&fiber);
    const auto is_done = [](const Fiber& fiber) { return fiber.done; };
    while (!std::all_of(l.fibers.begin(), l.fibers.end(), is_done)) {
        std::shuffle(groups.begin(), groups.end(), random);
        bool progress = false;
        for (auto& group : groups)
            while (round(l, group, random)) progress = true;
        if (!progress) return deadlock;
    }
    return finished;
}

inline Outcome run(uint3 grid, unsigned threads, size_t shared, unsigned seed,
                   void (*body)(void*), void* context) {
    const unsigned blocks = grid.x * grid.y;
    Launch l{grid, {threads, 1, 1}, std::vector<Block>(blocks), {}, nullptr, {}, body, context};
    l.fibers = std::vector<Fiber>(size_t(blocks) * threads);
    launch = &l;
    counts = {};
    for (unsigned b = 0; b < blocks; ++b) {
        Block& block = l.blocks[b];
        block.index = {b % grid.x, b / grid.x, 0};
        block.meeting.members = threads;
        block.bytes.assign(shared + 16 + guard_bytes, 0xFF);  // NaN, if it is read too early
        block.shared = block.bytes.data() + (16 - uintptr_t(block.bytes.data()) % 16) % 16;
        std::fill_n(block.shared + shared, guard_bytes, guard);
        block.warps.resize((threads + lanes - 1) / lanes);
        for (unsigned w = 0; w < block.warps.size(); ++w)
            block.warps[w].meeting.members = std::min(lanes, threads - w * lanes);
        for (unsigned t = 0; t < threads; ++t) {
            Fiber& fiber = l.fibers[size_t(b) * threads + t];
            fiber.block = &block;
            fiber.thread = {t, 0, 0};
            fiber.stack.reset(new char[stack_bytes]);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = stack_bytes;
            fiber.context.uc_link = &l.scheduler;
            makecontext(&fiber.context, start, 0);
        }
    }
    Outcome outcome = schedule(l, seed);
    for (const Block& block : l.blocks)
        if (std::any_of(block.shared + shared, block.shared + shared + guard_bytes,
                        [](unsigned char c) { return c != guard; }))
            outcome = shared_memory_overrun;
    launch = nullptr;
    return outcome;
}

// Calls a kernel as cuLaunchKernel does: arguments[i] points to the i-th parameter.
template <class... P, size_t... I>
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <class... P>
int run(void (*kernel)(P...), uint3 grid, unsigned threads, size_t shared, unsigned seed,
        void** arguments) {
    struct {
        void (*kernel)(P...);
        void** arguments;
    } context{kernel, arguments};
    return run(
        grid, threads, shared, seed,
        [](void* c) {
            auto& [function, values] = *static_cast<decltype(context)*>(c);
            call(function, values, std::index_sequence_for<P...>{});
        },
        &context);
}

}  // namespace on_cpu

extern "C" void counts(unsigned long long* loaded, unsigned long long* lines,
                       unsigned long long* kept, unsigned long long* read_only,
                       unsigned long long* instructions) {
    *loaded = on_cpu::counts.loaded;
    *lines = on_cpu::counts.lines.size();
    *kept = on_cpu::counts.kept;
    *read_only = on_cpu::counts.read_only;
    *instructions = on_cpu::counts.instructions / on_cpu::lanes;
}

#define GRU_XP_EXPORT(kernel)                                                                    \
    extern "C" int run_##kernel(unsigned x, unsigned y, unsigned threads, size_t shared,         \
                                unsigned seed, void** arguments) {                               \
        return on_cpu::run(kernel, {x, y, 1}, threads, shared, seed, arguments);                 \
    }

#define threadIdx (on_cpu::launch->running->thread)
#define blockIdx (on_cpu::launch->running->block->index)
#define blockDim (on_cpu::launch->block)
#define gridDim (on_cpu::launch->grid)

inline void __syncthreads() { on_cpu::meet(on_cpu::launch->running->block->meeting); }
inline void __nanosleep(unsigned) {
    on_cpu::launch->running->spins = true;
    on_cpu::launch->pause();
}
template <class T>
inline T __ldcg(const T* at) {
    on_cpu::counts.loaded += sizeof(T);
    const auto line = reinterpret_cast<uintptr_t>(at) / 128;
    on_cpu::counts.lines.emplace(&on_cpu::warp(), on_cpu::launch->running->loads++, line);
    return *at;
}
inline float __shfl_xor_sync(unsigned, float value, unsigned mask) {
    const unsigned lane = threadIdx.x % on_cpu::lanes;
    return __uint_as_float(on_cpu::exchange({__float_as_uint(value)})[lane ^ mask][0]);
}
