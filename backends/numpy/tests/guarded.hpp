// Arrays that detect accesses beyond their ends, with or without a sanitizer.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "check.hpp"

namespace gru_xp_tests {

// Whether the inaccessible page lies before the inputs rather than after them. Cases alternate.
inline bool guard_at_front = false;

// Read-only numbers that must not be read out of bounds. With AddressSanitizer, they are a heap
// block of their exact size. Without it, an inaccessible page directly follows (or precedes) them.
template <class T>
class Input {
  public:
    Input() = default;  // null

    explicit Input(const std::vector<T>& values) {
        const size_t size = values.size() * sizeof(T);
#ifdef GRU_XP_ADDRESS_SANITIZER
        block_ = ::operator new(size);
        data_ = static_cast<T*>(block_);
        if (size) std::memcpy(data_, values.data(), size);
#else
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        const size_t body = std::max((size + page - 1) / page * page, page);
        size_ = body + page;
        block_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block_ == MAP_FAILED) std::abort();
        char* begin = static_cast<char*>(block_) + (guard_at_front ? page : 0);
        std::memset(begin, 0xFF, body);  // NaN beside the numbers
        char* place = guard_at_front ? begin : begin + body - size;
        if (size) std::memcpy(place, values.data(), size);
        mprotect(begin, body, PROT_READ);
        mprotect(static_cast<char*>(block_) + (guard_at_front ? 0 : body), page, PROT_NONE);
        data_ = reinterpret_cast<T*>(place);
#endif
    }

    Input(const Input&) = delete;
    Input& operator=(const Input&) = delete;

    ~Input() {
#ifdef GRU_XP_ADDRESS_SANITIZER
        ::operator delete(block_);
#else
        if (block_) munmap(block_, size_);
#endif
    }

    const T* data() const { return data_; }

  private:
    void* block_ = nullptr;
    size_t size_ = 0;
    T* data_ = nullptr;
};

// Numbers to be written, initially NaN, between guard zones that must remain unchanged.
template <class T>
class Output {
  public:
    // `shift` displaces the numbers from the alignment of vectors.
    explicit Output(index count, index shift = 1) : count_(count), front_(zone + shift) {
        bytes_.assign(size_t(front_ + count + zone) * sizeof(T), canary);
        std::memset(static_cast<void*>(data()), 0xFF, size_t(count) * sizeof(T));
    }

    Output(const std::vector<T>& values, index count) : Output(count) {
        if (!values.empty()) std::memcpy(data(), values.data(), values.size() * sizeof(T));
    }

    T* data() { return reinterpret_cast<T*>(bytes_.data()) + front_; }
    index size() const { return count_; }

    // Checks that nothing was written before or after the numbers.
    void expect_intact(const char* name) const {
        const index begin = front_ * index(sizeof(T)), end = begin + count_ * index(sizeof(T));
        for (index i = 0; i < index(bytes_.size()); ++i) {
            if (i == begin) i = end;
            if (i == index(bytes_.size()) || bytes_[size_t(i)] == canary) continue;
            const index at = i < begin ? (i - begin) / index(sizeof(T)) - 1
                                       : count_ + (i - end) / index(sizeof(T));
            return fail(text("%s[%td] was written, of %td numbers", name, at, count_));
        }
    }

  private:
    static constexpr index zone = 128;
    static constexpr unsigned char canary = 0xA5;

    index count_, front_;
    std::vector<unsigned char> bytes_;
};

}  // namespace gru_xp_tests
