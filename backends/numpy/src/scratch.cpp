// Scratch memory, kept from call to call. It is not thread-local: a thread-local object is created
// at its first use in a thread, and if there is no memory for it, glibc ends the process.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>

#include "threads.hpp"

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace gru_xp {
namespace {

// Header of each block, with the alignment of the memory that follows it.
struct alignas(64) Block {
    size_t size;  // bytes that follow the header
    bool kept;    // put on a shelf after use instead of freed
};

// Slightly more than a power of two, because blocks have room for an extra cache line per tile.
constexpr size_t largest_kept = (size_t(1) << 22) + (size_t(1) << 16);
constexpr int shelves = 64, places = 4;

// Blocks of at least `large` bytes that are to be kept have at most `most_kept` bytes in total. For
// smaller blocks, the number of places limits the total.
constexpr size_t large = size_t(1) << 18;
const size_t most_kept =
    std::max(size_t(64), 4 * size_t(std::thread::hardware_concurrency())) << 20;
std::atomic<size_t> large_kept{0};

// Whether to keep a new block of this size. If so, and it is large, counts it in large_kept.
bool is_to_be_kept(size_t size) {
    if (size < large) return true;
    if (size > largest_kept) return false;
    if (large_kept.fetch_add(size) + size <= most_kept) return true;
    large_kept.fetch_sub(size);
    return false;
}

// Unused blocks. Each shelf belongs to a processor (or several), whose cache may still hold the
// blocks. It does no harm if a thread moves to another processor in the meantime.
struct alignas(64) Shelf {
    std::atomic<Block*> blocks[places];
};
Shelf all_shelves[shelves];

// The shelf of the current processor, or where that is unknown, one chosen by the thread's stack.
int shelf_here() {
#ifdef __linux__
    const int processor = sched_getcpu();
    if (processor >= 0) return processor % shelves;
#endif
    const int local = 0;  // each thread has its own stack
    const auto place = uint32_t(reinterpret_cast<uintptr_t>(&local) >> 16);
    return int(place * 0x9E3779B1u >> 26);  // 6 bits that depend on all lower ones
}

// Returns a new block, or null if there is no memory. Does not use operator new, because even its
// nothrow form throws an exception internally.
Block* allocate(size_t size) {
    constexpr size_t huge_page = size_t(1) << 21;
    const size_t unit = size >= huge_page ? huge_page : alignof(Block);
    const size_t all = (size + sizeof(Block) + unit - 1) / unit * unit;
#ifdef _WIN32
    void* data = _aligned_malloc(all, unit);
#else
    void* data = std::aligned_alloc(unit, all);
#endif
    if (!data) return nullptr;
#ifdef __linux__
    if (unit == huge_page) madvise(data, all, MADV_HUGEPAGE);
#endif
    return new (data) Block{size, is_to_be_kept(size)};
}

// Frees a block.
void drop(Block* block) {
    if (block->kept && block->size >= large) large_kept.fetch_sub(block->size);
#ifdef _WIN32
    _aligned_free(block);
#else
    std::free(block);
#endif
}

// Puts a block into a place if that is empty; returns whether it was.
bool put(std::atomic<Block*>& place, Block* block) {
    Block* none = nullptr;
    return place.compare_exchange_strong(none, block, std::memory_order_release);
}

// Takes the block out of a place; returns null if there is none.
Block* lift(std::atomic<Block*>& place) {
    if (!place.load(std::memory_order_relaxed)) return nullptr;
    return place.exchange(nullptr, std::memory_order_acquire);
}

// Puts a block into the first empty place. If there is none, the block replaces a smaller one, and
// the smallest block is freed.
void keep(Shelf& shelf, Block* block) {
    for (auto& place : shelf.blocks)
        if (put(place, block)) return;
    for (auto& place : shelf.blocks) {
        Block* other = lift(place);
        if (other && other->size < block->size) std::swap(other, block);
        if (other && !put(place, other)) drop(other);  // another thread has filled the place
    }
    drop(block);
}

}  // namespace

Scratch::Scratch() : shelf_(shelf_here()) {}

void* Scratch::bytes(size_t count) {
    const size_t size = std::max((count + 63) / 64 * 64, size_t(64));
    Shelf& shelf = all_shelves[shelf_];
    Block* block = nullptr;
    for (auto& place : shelf.blocks) {
        Block* found = lift(place);
        if (!found) continue;
        if (found->size >= size) {
            block = found;
            break;
        }
        keep(shelf, found);
    }
    if (!block) block = allocate(size);
    if (!block) return nullptr;
    blocks_[taken_++] = block;
    return block + 1;
}

Scratch::~Scratch() {
    while (taken_ > 0) {
        Block* block = static_cast<Block*>(blocks_[--taken_]);
        if (block->kept)
            keep(all_shelves[shelf_], block);
        else
            drop(block);
    }
}

}  // namespace gru_xp
