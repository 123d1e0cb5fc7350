// Tests whole sequences and streams against single steps of cells. The results must be
// bit-identical.
#include <memory>

#include "guarded.hpp"
#include "stream.hpp"

namespace gru_xp_tests {
namespace {

struct Stack {
    index T, N, I, H;
    int layers, directions;
    bool state, bias, reset_before;

    std::string title() const {
        return text("T=%td N=%td I=%td H=%td, %d layers%s%s%s%s", T, N, I, H, layers,
                    directions == 2 ? " of two directions" : "", state ? "" : " h0=0",
                    bias ? " bias" : "", reset_before ? " reset before" : "");
    }
};

// The guarded inputs of a stack, and its expected output, computed one cell step at a time.
template <class T>
class Model {
  public:
    explicit Model(const Stack& of) : s(of) {
        Random random(uint64_t(s.T + 10 * s.N + 100 * s.I + 1000 * s.H));
        x = random.numbers<T>(s.T * s.N * s.I, 1);
        h0 = random.numbers<T>(s.state ? count() * s.N * s.H : 0, 1);
        x_ = std::make_unique<Input<T>>(x);
        h0_ = std::make_unique<Input<T>>(h0);
        for (index k = 0; k < count(); ++k) {
            const index inputs = k < s.directions ? s.I : s.directions * s.H;
            const auto add = [&](index numbers, double bound) {
                arrays_.push_back(std::make_unique<Input<T>>(random.numbers<T>(numbers, bound)));
                return arrays_.back()->data();
            };
            gru_xp::Weights<T> w{};
            w.input_size = inputs;
            w.weight_ih = add(3 * s.H * inputs, 2 / std::sqrt(double(inputs)));
            w.weight_hh = add(3 * s.H * s.H, 2 / std::sqrt(double(s.H)));
            if (s.bias) {
                w.bias_ih = add(3 * s.H, 1);
                w.bias_hh = add(3 * s.H, 1);
            }
            weights.push_back(w);
        }
        const index one = s.N * s.H, across = s.directions * s.H;
        std::vector<T> input = x;
        h_n.resize(size_t(count() * one));
        for (index layer = 0; layer < s.layers; ++layer) {
            y.assign(size_t(s.T * s.N * across), T(0));
            for (int direction = 0; direction < s.directions; ++direction) {
                const index k = layer * s.directions + direction;
                std::vector<T> h(size_t(one), T(0));
                if (s.state) h.assign(&h0[size_t(k * one)], &h0[size_t(k * one)] + one);
                for (index step = 0; step < s.T; ++step) {
                    const index t = direction ? s.T - 1 - step : step;
                    std::vector<T> next(static_cast<size_t>(one));
                    const gru_xp::Step<T> p{s.N, s.H, &input[size_t(t * s.N * weights[size_t(k)].input_size)],
                                            h.data(), weights[size_t(k)], next.data(),
                                            !s.reset_before};
                    gru_xp::step(p);
                    h = next;
                    for (index i = 0; i < s.N; ++i)
                        std::copy_n(&h[size_t(i * s.H)], s.H,
                                    &y[size_t((t * s.N + i) * across + direction * s.H)]);
                }
                std::copy_n(h.data(), one, &h_n[size_t(k * one)]);
            }
            input = y;
        }
    }

    index count() const { return s.layers * s.directions; }
    const T* input() const { return x_->data(); }
    const T* state() const { return s.state ? h0_->data() : nullptr; }

    const Stack s;
    std::vector<gru_xp::Weights<T>> weights;
    std::vector<T> x, h0, y, h_n;

  private:
    std::unique_ptr<Input<T>> x_, h0_;
    std::vector<std::unique_ptr<Input<T>>> arrays_;
};

template <class T>
void check_sequence(const char* set, const Model<T>& model, int threads) {
    const Stack& s = model.s;
    begin_case("sequence %s %s %s, %d threads", type_name<T>, set, s.title().c_str(), threads);
    const index one = s.N * s.H, out = s.directions * s.T * one, first = s.directions == 2 ? 0 : one;
    Output<T> y(first + out), h_n(model.count() * one);
    gru_xp::sequence<T>({s.T, s.N, s.H, s.layers, s.directions, model.weights.data(),
                         model.input(), model.state(), y.data(), h_n.data(), !s.reset_before});
    const std::vector<T> expected = model.y, last = model.h_n;
    expect_same_bits("y", {s.T, s.N, s.directions * s.H}, y.data() + first, expected.data(), out);
    expect_same_bits("h_n", {model.count(), s.N, s.H}, h_n.data(), last.data(), h_n.size());
    y.expect_intact("y");
    h_n.expect_intact("h_n");
}

// Feeds the first half of the sequence to a stream step by step, and the rest as one chunk.
template <class T>
void check_stream(const char* set, const Model<T>& model, int threads) {
    const Stack& s = model.s;
    begin_case("stream %s %s %s, %d threads", type_name<T>, set, s.title().c_str(), threads);
    const index one = s.N * s.H, single = s.T / 2;
    gru_xp::Stream<T> stream(model.weights, s.H, !s.reset_before);
    stream.set_state(model.state(), s.N);
    Output<T> y(s.T * one), state(s.layers * one);
    for (index t = 0; t < single; ++t)
        stream.step(model.input() + t * s.N * s.I, y.data() + t * one);
    if (s.T > single)
        stream.chunk(model.input() + single * s.N * s.I, s.T - single, y.data() + single * one);
    stream.get_state(state.data());
    const std::vector<T> expected = model.y, last = model.h_n;
    expect_same_bits("y", {s.T, s.N, s.H}, y.data(), expected.data(), y.size());
    expect_same_bits("state", {s.layers, s.N, s.H}, state.data(), last.data(), state.size());
    y.expect_intact("y");
    state.expect_intact("state");
}

template <class T>
void check(const Options& options, const Stack& stack, int threads) {
    for (const char* set : options.sets) {
        gru_xp::choose_instruction_set(set);
        gru_xp::set_thread_count(1);
        const Model<T> model(stack);
        for (int count = 1; count <= threads; ++count) {
            gru_xp::set_thread_count(count);
            check_sequence(set, model, count);
            if (stack.directions == 1) check_stream(set, model, count);
        }
    }
}

}  // namespace

void test_sequence(const Options& options) {
    int number = 0;
    for (index N : {1, 2, 5, 9, 37})
        for (index I : {1, 9, 65})
            for (index H : {1, 8, 17, 49, 130})
                for (int layers : {1, 2, 3}) {
                    ++number;
                    if (options.quick && number % 9 != 0) continue;
                    guard_at_front = number % 2;
                    const Stack stack{1 + number % 5, N, I, H, layers, 1 + number / 3 % 2,
                                      number % 4 < 2, number % 3 > 0, number / 2 % 2 == 0};
                    check<float>(options, stack, 1);
                    check<double>(options, stack, 1);
                }
    // Large enough for several threads, both step by step and as a whole.
    check<float>(options, {4, 3, 290, 301, 2, 1, true, true, false}, 3);
    check<double>(options, {4, 1, 301, 290, 2, 1, true, true, true}, 3);
    check<float>(options, {30, 70, 50, 60, 2, 2, false, true, false}, 3);
}

}  // namespace gru_xp_tests
