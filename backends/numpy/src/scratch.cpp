// Memory that is kept from call to call. No thread owns it: what belongs to a thread must be made
// when the thread first asks, and where memory has run out glibc then ends the process.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "threads.hpp"

#ifdef __linux__
#include <sched.h>
#include <sys/mman.h>
#endif

namespace gru_xp {
namespace {

// Stands before each block, at the alignment of what follows.
struct alignas(64) Block {
    size_t size;  // of what follows
};

constexpr size_t largest_kept = size_t(1) << 22;
constexpr int shelves = 64, places = 4;

// Blocks that nobody uses. A shelf belongs to a processor, in whose cache they may still be; that a
// thread moves on in between does no harm.
struct alignas(64) Shelf {
    std::atomic<Block*> blocks[places];
};
Shelf kept[shelves];

int shelf_here() {
#ifdef __linux__
    const int processor = sched_getcpu();
    if (processor >= 0) return processor % shelves;
#endif
    const int local = 0;  // threads' stacks lie apart
    return int(reinterpret_cast<uintptr_t>(&local) >> 16) & (shelves - 1);
}

Block* allocate(size_t size) {
    constexpr size_t page = size_t(1) << 21;
    const size_t alignment = size >= page ? page : 64, all = size + sizeof(Block);
    void* data = std::aligned_alloc(alignment, (all + alignment - 1) / alignment * alignment);
    if (!data) throw std::bad_alloc();
#ifdef __linux__
    if (size >= page) madvise(data, all, MADV_HUGEPAGE);
#endif
    return new (data) Block{size};
}

// Puts a block into the first empty place, or into that of a smaller one.
void keep(Shelf& shelf, Block* block) {
    for (auto& place : shelf.blocks) {
        Block* none = nullptr;
        if (place.compare_exchange_strong(none, block, std::memory_order_release)) return;
    }
    for (auto& place : shelf.blocks) {
        Block* other = place.exchange(nullptr, std::memory_order_acquire);
        if (other && other->size < block->size) std::swap(other, block);
        Block* none = nullptr;
        if (other && !place.compare_exchange_strong(none, other, std::memory_order_release))
            std::free(other);  // another thread was quicker
    }
    std::free(block);
}

}  // namespace

Scratch::Scratch() : shelf_(shelf_here()) {}

void* Scratch::bytes(size_t count) {
    const size_t size = std::max((count + 63) / 64 * 64, size_t(64));
    Shelf& shelf = kept[shelf_];
    Block* block = nullptr;
    for (auto& place : shelf.blocks) {
        if (!place.load(std::memory_order_relaxed)) continue;
        Block* found = place.exchange(nullptr, std::memory_order_acquire);
        if (!found) continue;
        if (found->size >= size) {
            block = found;
            break;
        }
        keep(shelf, found);
    }
    if (!block) block = allocate(size);
    blocks_[taken_++] = block;
    return block + 1;
}

Scratch::~Scratch() {
    while (taken_ > 0) {
        Block* block = static_cast<Block*>(blocks_[--taken_]);
        if (block->size <= largest_kept)
            keep(kept[shelf_], block);
        else
            std::free(block);
    }
}

}  // namespace gru_xp
