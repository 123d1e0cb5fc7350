// A random recurrence, and runs of it by the accelerator with guarded inputs and outputs.
#pragma once

#include <string>
#include <vector>

#include "guarded.hpp"
#include "reference.hpp"

namespace gru_xp_tests {

struct Case {
    index T, N, H;
    bool ragged = false, reverse = false, bias = false, tape = false;
    bool reset_before = false;  // then there is no bias in the loop

    std::string title() const {
        return text("T=%td N=%td H=%td%s%s%s%s%s", T, N, H, ragged ? " ragged" : "",
                    reverse ? " reverse" : "", bias ? " b_hn" : "", tape ? " tape" : "",
                    reset_before ? " reset before" : "");
    }
};

template <class T>
struct Recurrence {
    Case c;
    std::vector<T> gx, h0, weight_hh, b_hn, dh, dh_last;
    std::vector<int64_t> lengths;

    explicit Recurrence(const Case& of) : c(of) {
        Random random(uint64_t(c.T + 10 * c.N + 1000 * c.H));
        const double bound = 2 / std::sqrt(double(c.H));
        gx = random.numbers<T>(c.T * c.N * 3 * c.H, 2);
        h0 = random.numbers<T>(c.N * c.H, 1);
        weight_hh = random.numbers<T>(3 * c.H * c.H, bound);
        if (c.bias) b_hn = random.numbers<T>(c.H, 1);
        dh = random.numbers<T>(c.T * c.N * c.H, 1);
        dh_last = random.numbers<T>(c.N * c.H, 1);
        if (!c.ragged) return;
        const T nan = std::numeric_limits<T>::quiet_NaN();
        for (index i = 0; i < c.N; ++i) {
            // With two or more rows, the first is all padding and the last has no padding.
            lengths.push_back(c.N > 1 && i == c.N - 1 ? c.T
                              : c.N > 1 && i == 0     ? 0
                                                      : random.below(c.T + 1));
            for (index t = lengths.back(); t < c.T; ++t)
                std::fill_n(&gx[(t * c.N + i) * 3 * c.H], 3 * c.H, nan);
        }
    }

    template <class R = Exact<T>>
    Reference<R> reference() const {
        Reference<R> result{};
        result.T = c.T, result.N = c.N, result.H = c.H, result.reverse = c.reverse;
        result.reset_before = c.reset_before;
        result.gx.assign(gx.begin(), gx.end());
        result.h0.assign(h0.begin(), h0.end());
        result.W.assign(weight_hh.begin(), weight_hh.end());
        result.b.assign(b_hn.begin(), b_hn.end());
        result.lengths = lengths;
        return result;
    }
};

// The arrays and arguments of a call of forward.
template <class T>
class ForwardRun {
  public:
    explicit ForwardRun(const Recurrence<T>& of)
        : c(of.c), states((c.T + 1) * c.N * c.H), r(tape()), z(tape()), n(tape()),
          gh_n(c.reset_before ? 0 : tape()), reset_h(c.N * c.H),
          gx_(of.gx), weight_hh_(of.weight_hh), b_hn_(of.b_hn), lengths_(of.lengths) {
        std::copy(of.h0.begin(), of.h0.end(),
                  states.data() + (c.reverse ? c.T * c.N * c.H : index(0)));
    }

    gru_xp::Forward<T> arguments() {
        gru_xp::Forward<T> p{};
        p.steps = c.T;
        p.rows = c.N;
        p.size = c.H;
        p.gx = gx_.data();
        p.weight_hh = weight_hh_.data();
        p.b_hn = c.bias ? b_hn_.data() : nullptr;
        p.lengths = c.ragged ? lengths_.data() : nullptr;
        p.states = states.data();
        if (c.tape) {
            p.r = r.data();
            p.z = z.data();
            p.n = n.data();
            p.gh_n = c.reset_before ? nullptr : gh_n.data();
        }
        p.reverse = c.reverse;
        p.reset_after = !c.reset_before;
        p.reset_h = reset_h.data();
        return p;
    }

    void expect_intact() const {
        states.expect_intact("states");
        r.expect_intact("r");
        z.expect_intact("z");
        n.expect_intact("n");
        gh_n.expect_intact("gh_n");
        reset_h.expect_intact("reset_h");
    }

    void expect_same_bits_as(ForwardRun& other) {
        const auto same = [&](const char* name, Output<T>& mine, Output<T>& its) {
            expect_same_bits(name, {c.T + 1, c.N, c.H}, mine.data(), its.data(), mine.size());
        };
        same("states", states, other.states);
        same("r", r, other.r);
        same("z", z, other.z);
        same("n", n, other.n);
        same("gh_n", gh_n, other.gh_n);
        expect_intact();
    }

    const Case c;
    Output<T> states, r, z, n, gh_n, reset_h;

  private:
    index tape() const { return c.tape ? c.T * c.N * c.H : 0; }

    Input<T> gx_, weight_hh_, b_hn_;
    Input<int64_t> lengths_;
};

// The arrays and arguments of a call of backward. The tape is that of the reference, with NaN in
// padding.
template <class T>
class BackwardRun {
  public:
    template <class R>
    BackwardRun(const Recurrence<T>& of, const Reference<R>& forward)
        : c(of.c), carried(of.dh_last, c.N * c.H), dgx(c.T * c.N * 3 * c.H),
          dgh_n(c.reset_before ? 0 : c.T * c.N * c.H), dh_(of.dh), weight_hh_(of.weight_hh),
          h_prev_(of_tape(forward, forward.states, c.reverse ? c.N * c.H : 0)),
          r_(of_tape(forward, forward.r)), z_(of_tape(forward, forward.z)),
          n_(of_tape(forward, forward.n)), gh_n_(of_tape(forward, forward.gh_n)),
          lengths_(of.lengths) {}

    gru_xp::Backward<T> arguments() {
        gru_xp::Backward<T> p{};
        p.steps = c.T;
        p.rows = c.N;
        p.size = c.H;
        p.dh = dh_.data();
        p.lengths = c.ragged ? lengths_.data() : nullptr;
        p.h_prev = h_prev_.data();
        p.r = r_.data();
        p.z = z_.data();
        p.n = n_.data();
        p.gh_n = c.reset_before ? nullptr : gh_n_.data();
        p.carried = carried.data();
        p.dgx = dgx.data();
        p.dgh_n = c.reset_before ? nullptr : dgh_n.data();
        p.reverse = c.reverse;
        p.reset_after = !c.reset_before;
        return p;
    }

    const T* weight_hh() const { return weight_hh_.data(); }

    void expect_intact() const {
        carried.expect_intact("dh0");
        dgx.expect_intact("dgx");
        dgh_n.expect_intact("dgh_n");
    }

    void expect_same_bits_as(BackwardRun& other) {
        expect_same_bits("dh0", {c.N, c.H}, carried.data(), other.carried.data(), carried.size());
        expect_same_bits("dgx", {c.T, c.N, 3 * c.H}, dgx.data(), other.dgx.data(), dgx.size());
        expect_same_bits("dgh_n", {c.T, c.N, c.H}, dgh_n.data(), other.dgh_n.data(), dgh_n.size());
        expect_intact();
    }

    const Case c;
    Output<T> carried, dgx, dgh_n;

  private:
    template <class R>
    std::vector<T> of_tape(const Reference<R>& forward, const std::vector<R>& kind,
                           index from = 0) const {
        const T nan = std::numeric_limits<T>::quiet_NaN();
        std::vector<T> result(size_t(c.T * c.N * c.H));
        for (index k = 0; k < index(result.size()); ++k)
            result[k] = forward.valid(k / (c.N * c.H), k / c.H % c.N) ? T(kind[from + k]) : nan;
        return result;
    }

    Input<T> dh_, weight_hh_, h_prev_, r_, z_, n_, gh_n_;
    Input<int64_t> lengths_;
};

}  // namespace gru_xp_tests
