#include "stream.hpp"

#include <algorithm>
#include <utility>

#include "plan.hpp"

namespace gru_xp {

// Packs the weights for one row and for the current instruction set.
template <class T>
Stream<T>::Stream(const std::vector<Weights<T>>& layers, ptrdiff_t size, bool reset_after)
    : kernels_(kernels<T>()), size_(size), reset_after_(reset_after), group_(kernels_.group(1)) {
    const ptrdiff_t columns = 3 * divided(size, kernels_.width) * kernels_.width;
    for (const Weights<T>& w : layers) {
        Layer layer{w.input_size, Numbers(size_t(columns * w.input_size)),
                    Numbers(size_t(columns * size)), {}, {}, {}};
        kernels_.pack_forward(layer.packed_ih.data(), w.weight_ih, size, w.input_size, true, group_,
                              {0, 1});
        kernels_.pack_forward(layer.packed_hh.data(), w.weight_hh, size, size, reset_after, group_,
                              {0, 1});
        if (w.bias_ih) {
            layer.bias.resize(size_t(3 * size));
            input_bias(w, size, reset_after, layer.bias.data());
            layer.b_hn.assign(w.bias_hh + 2 * size, w.bias_hh + 3 * size);
        }
        const double of_layer = 3.0 * double(size) * double(w.input_size + size);
        weights_ += of_layer;
        largest_ = std::max(largest_, of_layer);
        layers_.push_back(std::move(layer));
    }
}

template <class T>
void Stream<T>::set_state(const T* from, ptrdiff_t rows) {
    const ptrdiff_t one = rows * size_;
    // Allocate everything first, so that the old state remains if memory runs out.
    std::vector<Numbers> states(layers_.size());
    for (Numbers& each : states) {
        each.resize(size_t(2 * one));
        if (from) from = (std::copy_n(from, one, each.data()), from + one);
    }
    Numbers gx(size_t(3 * one)), reset_h(size_t(reset_after_ ? 0 : one));
    for (size_t i = 0; i < states.size(); ++i) layers_[i].states.swap(states[i]);
    gx_.swap(gx);
    reset_h_.swap(reset_h);
    rows_ = rows;
    turned_ = false;
}

template <class T>
void Stream<T>::get_state(T* to) const {
    for (const Layer& layer : layers_)
        to = std::copy_n(layer.states.data() + (turned_ ? rows_ * size_ : 0), rows_ * size_, to);
}

template <class T>
Projection<T> Stream<T>::projection(const Layer& layer, const T* x, ptrdiff_t rows, T* gx) const {
    const T* bias = layer.bias.empty() ? nullptr : layer.bias.data();
    return {rows, layer.inputs, size_, x, layer.packed_ih.data(), group_, bias, gx};
}

template <class T>
Forward<T> Stream<T>::recurrence(const Layer& layer, const T* gx, ptrdiff_t steps,
                                 T* states) const {
    Forward<T> f{};
    f.steps = steps;
    f.rows = rows_;
    f.size = size_;
    f.gx = gx;
    f.packed = layer.packed_hh.data();
    f.group = group_;
    f.b_hn = reset_after_ && !layer.b_hn.empty() ? layer.b_hn.data() : nullptr;
    f.states = states;
    f.reset_h = const_cast<T*>(reset_h_.data());
    f.reset_after = reset_after_;
    return f;
}

template <class T>
void Stream<T>::step(const T* x, T* y) {
    const int rounds = reset_after_ ? 1 : 2;
    const ptrdiff_t of_layer = 1 + rounds;
    const auto body = [&](Share own, ptrdiff_t stage) {
        Layer& layer = layers_[size_t(stage / of_layer)];
        const ptrdiff_t round = stage % of_layer - 1;
        if (round < 0) {
            const T* input = x;
            if (stage > 0)  // the new state of the layer below
                input = next_state(layers_[size_t(stage / of_layer - 1)]);
            return kernels_.project(projection(layer, input, rows_, gx_.data()), own);
        }
        Forward<T> f = recurrence(layer, gx_.data(), 1, layer.states.data());
        f.reverse = turned_;  // reads the second place and writes the first
        return kernels_.forward(f, {0, rows_}, own, {round, round + 1});
    };
    const ptrdiff_t stages = layers() * of_layer;
    const Wanted wanted(reading(largest_, rows_), worth_reading);
    if (wanted.threads() == 1) {
        for (ptrdiff_t stage = 0; stage < stages; ++stage) must(body({0, 1}, stage));
    } else {
        Team team(wanted.threads());
        must(team.run(team.size(), stages, stages, [&](int share, ptrdiff_t stage) {
            return body({share, team.size()}, stage);
        }));
    }
    turned_ = !turned_;
    std::copy_n(state(layers_.back()), rows_ * size_, y);
}

template <class T>
void Stream<T>::project(const Projection<T>& p) const {
    const double work = 6.0 * double(p.rows) * double(p.size) * double(p.depth);
    const Wanted wanted(work, worth_sharing);
    Team team(wanted.threads());
    must(team.run(team.size(), 1, 0, [&](int share, ptrdiff_t) {
        return kernels_.project(p, {share, team.size()});
    }));
}

template <class T>
void Stream<T>::chunk(const T* x, ptrdiff_t steps, T* y) {
    const ptrdiff_t one = rows_ * size_, all = steps * one;
    Scratch scratch;
    T* gx = must(scratch.take<T>(3 * all));
    T* states = must(scratch.take<T>(2 * (all + one)));
    for (ptrdiff_t number = 0; number < layers(); ++number) {
        Layer& layer = layers_[size_t(number)];
        T* own = states + number % 2 * (all + one);
        std::copy_n(state(layer), one, own);
        project(projection(layer, x, steps * rows_, gx));
        forward(recurrence(layer, gx, steps, own), kernels_);
        // Store the new state where a step would, without making it current: the next layers may
        // run out of memory.
        std::copy_n(own + all, one, next_state(layer));
        x = own + one;
    }
    turned_ = !turned_;
    std::copy_n(x, all, y);
}

template class Stream<float>;
template class Stream<double>;

}  // namespace gru_xp
