// A GRU that is fed step by step. Packs the weights once and keeps the state between calls.
#pragma once

#include <new>
#include <vector>

#include "drive.hpp"
#include "kernels.hpp"

namespace gru_xp {

// An allocator of memory aligned to cache lines, from which vectors are read fastest.
template <class T>
struct Aligned {
    using value_type = T;
    static constexpr std::align_val_t line{64};

    Aligned() = default;
    template <class U>
    Aligned(const Aligned<U>&) {}
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), line)); }
    void deallocate(T* p, size_t) { ::operator delete(p, line); }
    friend bool operator==(Aligned, Aligned) { return true; }
};

// A stack of layers in one direction. Supports only one call at a time.
template <class T>
class Stream {
  public:
    // Copies the weights.
    Stream(const std::vector<Weights<T>>& layers, ptrdiff_t size, bool reset_after);

    ptrdiff_t layers() const { return ptrdiff_t(layers_.size()); }
    ptrdiff_t size() const { return size_; }
    ptrdiff_t input_size() const { return layers_.front().inputs; }
    // Returns the number of weights, biases excluded. A step reads each of them once.
    double weights() const { return weights_; }

    // Returns the number of rows, or 0 before the first `set_state`.
    ptrdiff_t rows() const { return rows_; }
    // Sets the state (layers, rows, size); null means zeros. Needed before the first step or chunk.
    void set_state(const T* state, ptrdiff_t rows);
    void get_state(T* state) const;

    // Computes one step: y (rows, size) from x (rows, inputs). Allocates nothing if a single thread
    // computes it and the rows fit into one tile.
    void step(const T* x, T* y);
    // Computes several steps: y (steps, rows, size) from x (steps, rows, inputs).
    void chunk(const T* x, ptrdiff_t steps, T* y);

  private:
    using Numbers = std::vector<T, Aligned<T>>;
    struct Layer {
        ptrdiff_t inputs;
        Numbers packed_ih, packed_hh, bias, b_hn;  // the biases are empty if there are none
        Numbers states;                            // two: a step reads one and writes the other
    };

    Projection<T> projection(const Layer& layer, const T* x, ptrdiff_t rows, T* gx) const;
    void project(const Projection<T>& p) const;
    Forward<T> recurrence(const Layer& layer, const T* gx, ptrdiff_t steps, T* states) const;
    T* next_state(Layer& layer) { return layer.states.data() + (turned_ ? 0 : rows_ * size_); }
    T* state(Layer& layer) { return layer.states.data() + (turned_ ? rows_ * size_ : 0); }

    const Kernels<T>& kernels_;
    ptrdiff_t size_, rows_ = 0;
    bool reset_after_, turned_ = false;
    int group_;
    double weights_ = 0, largest_ = 0;  // of all layers, and of the largest one
    std::vector<Layer> layers_;
    Numbers gx_, reset_h_;
};

}  // namespace gru_xp
