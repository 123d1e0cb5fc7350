// Tests one step of a cell, including its products.
#include "guarded.hpp"
#include "reference.hpp"

namespace gru_xp_tests {
namespace {

template <class T>
struct Cell {
    index N, I, H;
    bool state, bias, reset_before;
    std::vector<T> x, h, weight_ih, weight_hh, bias_ih, bias_hh;

    Cell(index rows, index input_size, index size, bool has_state, bool has_bias, bool before)
        : N(rows), I(input_size), H(size), state(has_state), bias(has_bias), reset_before(before) {
        Random random(uint64_t(N + 100 * I + 10000 * H));
        x = random.numbers<T>(N * I, 1);
        h = random.numbers<T>(state ? N * H : 0, 1);
        weight_ih = random.numbers<T>(3 * H * I, 2 / std::sqrt(double(std::max(I, index(1)))));
        weight_hh = random.numbers<T>(3 * H * H, 2 / std::sqrt(double(H)));
        bias_ih = random.numbers<T>(bias ? 3 * H : 0, 1);
        bias_hh = random.numbers<T>(bias ? 3 * H : 0, 1);
    }

    std::vector<Exact<T>> expected() const {
        using R = Exact<T>;
        Reference<R> reference{};
        reference.T = 1, reference.N = N, reference.H = H;
        reference.reset_before = reset_before;
        reference.h0.assign(h.begin(), h.end());
        reference.h0.resize(size_t(N * H), R(0));
        reference.W.assign(weight_hh.begin(), weight_hh.end());
        if (bias && !reset_before) reference.b.assign(bias_hh.begin() + 2 * H, bias_hh.end());
        for (index i = 0; i < N; ++i)
            for (index j = 0; j < 3 * H; ++j) {
                R sum = bias ? R(bias_ih[j]) : R(0);
                if (bias && (reset_before || j < 2 * H)) sum += R(bias_hh[j]);
                for (index k = 0; k < I; ++k) sum += R(x[i * I + k]) * R(weight_ih[j * I + k]);
                reference.gx.push_back(sum);
            }
        reference.forward();
        return {reference.states.begin() + N * H, reference.states.end()};
    }
};

// The arrays of one call of step. The constructor makes the call.
template <class T>
class StepRun {
  public:
    explicit StepRun(const Cell<T>& of)
        : h_next(of.N * of.H), x_(of.x), h_(of.h), weight_ih_(of.weight_ih),
          weight_hh_(of.weight_hh), bias_ih_(of.bias_ih), bias_hh_(of.bias_hh) {
        gru_xp::Step<T> p{};
        p.rows = of.N;
        p.size = of.H;
        p.reset_after = !of.reset_before;
        p.x = x_.data();
        p.h = of.state ? h_.data() : nullptr;
        p.weights = {of.I, weight_ih_.data(), weight_hh_.data(),
                     of.bias ? bias_ih_.data() : nullptr, of.bias ? bias_hh_.data() : nullptr};
        p.h_next = h_next.data();
        gru_xp::step(p);
        h_next.expect_intact("h_next");
    }

    Output<T> h_next;

  private:
    Input<T> x_, h_, weight_ih_, weight_hh_, bias_ih_, bias_hh_;
};

template <class T>
void check(const Options& options, index N, index I, index H, bool state, bool bias, bool before,
           int threads) {
    const Cell<T> cell(N, I, H, state, bias, before);
    const auto expected = cell.expected();
    for (const char* set : options.sets) {
        gru_xp::choose_instruction_set(set);
        gru_xp::set_thread_count(1);
        begin_case("step %s %s N=%td I=%td H=%td%s%s%s", type_name<T>, set, N, I, H,
                   state ? "" : " h=0", bias ? " bias" : "", before ? " reset before" : "");
        StepRun<T> one(cell);
        const double allowed = 8 + std::sqrt(double(I)) / 4 + std::sqrt(double(H)) / 4;
        expect_close("h_next", {N, H}, one.h_next.data(), expected, allowed);
        for (int count = 2; count <= threads; ++count) {
            begin_case("step %s %s N=%td I=%td H=%td, %d threads", type_name<T>, set, N, I, H,
                       count);
            gru_xp::set_thread_count(count);
            StepRun<T> several(cell);
            expect_same_bits("h_next", {N, H}, several.h_next.data(), one.h_next.data(), N * H);
        }
    }
}

}  // namespace

void test_step(const Options& options) {
    int number = 0;
    for (index N : {0, 1, 2, 3, 4, 5, 8, 9, 17})
        for (index I : {0, 1, 8, 17, 65, 513})
            for (index H : {1, 7, 16, 17, 33, 49}) {
                ++number;
                if (options.quick && number % 7 != 0) continue;
                guard_at_front = number % 2;
                for (int way = options.quick ? number % 8 : 0; way < 8;
                     way += options.quick ? 8 : 1) {
                    const bool state = (way & 1) != 0, bias = (way & 2) != 0, before = way >= 4;
                    check<float>(options, N, I, H, state, bias, before, 1);
                    check<double>(options, N, I, H, state, bias, before, 1);
                }
            }
    // Large enough for four threads.
    for (bool before : {false, true}) {
        check<float>(options, 3, 301, 311, true, true, before, 4);
        check<double>(options, 1, 300, 303, true, true, before, 4);
    }
}

}  // namespace gru_xp_tests
