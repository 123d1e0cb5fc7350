// Tests forward and backward against the reference, and the reference against complex-step
// derivatives.
#include "recurrence.hpp"

namespace gru_xp_tests {
namespace {

// Allowed errors, in roundings. They cover a few roundings in every step and in the sums, whose
// errors grow with their length.
double allowed_forward(const Case& c) { return 6 + std::sqrt(double(c.H)) * 0.5 * double(c.T + 1); }
double allowed_backward(const Case& c) {
    return 16 + std::sqrt(double(c.H)) * 2 * double(c.T + 1);
}

template <class T>
void check(const Options& options, const Case& c) {
    const Recurrence<T> recurrence(c);
    auto expected = recurrence.reference();
    expected.forward();
    const std::vector<Exact<T>> dh(recurrence.dh.begin(), recurrence.dh.end());
    expected.backward(dh, {recurrence.dh_last.begin(), recurrence.dh_last.end()});
    for (const char* set : options.sets) {
        gru_xp::choose_instruction_set(set);
        begin_case("forward %s %s %s", type_name<T>, set, c.title().c_str());
        ForwardRun<T> run(recurrence);
        gru_xp::forward(run.arguments());
        const double allowed = allowed_forward(c);
        expect_close("states", {c.T + 1, c.N, c.H}, run.states.data(), expected.states, allowed);
        if (c.tape) {
            expect_close("r", {c.T, c.N, c.H}, run.r.data(), expected.r, allowed);
            expect_close("z", {c.T, c.N, c.H}, run.z.data(), expected.z, allowed);
            expect_close("n", {c.T, c.N, c.H}, run.n.data(), expected.n, allowed);
            if (!c.reset_before)
                expect_close("gh_n", {c.T, c.N, c.H}, run.gh_n.data(), expected.gh_n, 2 * allowed);
        }
        run.expect_intact();
        if (!c.tape) continue;  // backward needs one

        begin_case("backward %s %s %s", type_name<T>, set, c.title().c_str());
        BackwardRun<T> back(recurrence, expected);
        gru_xp::backward(back.arguments(), back.weight_hh());
        const double of_gradients = allowed_backward(c);
        expect_close("dgx", {c.T, c.N, 3 * c.H}, back.dgx.data(), expected.dgx, of_gradients);
        if (!c.reset_before)
            expect_close("dgh_n", {c.T, c.N, c.H}, back.dgh_n.data(), expected.dgh_n, of_gradients);
        expect_close("dh0", {c.N, c.H}, back.carried.data(), expected.dh0, of_gradients);
        back.expect_intact();
    }
}

// If all rows are padding, the weights must not affect any result, not even as zero times infinity.
template <class T>
void check_all_padding(const Options& options, bool reverse, bool reset_before) {
    Case c{3, 5, 17, true, reverse, !reset_before, true, reset_before};
    Recurrence<T> recurrence(c);
    recurrence.lengths.assign(size_t(c.N), 0);
    std::fill(recurrence.weight_hh.begin(), recurrence.weight_hh.end(),
              std::numeric_limits<T>::infinity());
    auto expected = recurrence.reference();
    expected.forward();
    const std::vector<Exact<T>> dh(recurrence.dh.begin(), recurrence.dh.end());
    expected.backward(dh, {recurrence.dh_last.begin(), recurrence.dh_last.end()});
    for (const char* set : options.sets) {
        gru_xp::choose_instruction_set(set);
        begin_case("all padding, infinite weights, %s %s %s", type_name<T>, set, c.title().c_str());
        ForwardRun<T> run(recurrence);
        gru_xp::forward(run.arguments());
        expect_close("states", {c.T + 1, c.N, c.H}, run.states.data(), expected.states, 0.5);
        BackwardRun<T> back(recurrence, expected);
        gru_xp::backward(back.arguments(), back.weight_hh());
        expect_close("dgx", {c.T, c.N, 3 * c.H}, back.dgx.data(), expected.dgx, 0.5);
        if (!reset_before)
            expect_close("dgh_n", {c.T, c.N, c.H}, back.dgh_n.data(), expected.dgh_n, 0.5);
        expect_close("dh0", {c.N, c.H}, back.carried.data(), expected.dh0, 3);
    }
}

// Returns the derivative of sum(dh * h) + sum(dh_last * last state) with respect to one number, to
// which `change` adds an imaginary step.
template <class Change>
double slope(const Recurrence<double>& of, Change change) {
    auto moved = of.reference<std::complex<double>>();
    change(moved);
    moved.forward();
    std::complex<double> loss = 0;
    const index state = of.c.N * of.c.H;
    for (index t = 0; t < of.c.T; ++t)
        for (index k = 0; k < state; ++k)
            loss += of.dh[t * state + k] * moved.states[moved.after(t) * state + k];
    const index last = of.c.reverse ? 0 : of.c.T;
    for (index k = 0; k < state; ++k) loss += of.dh_last[k] * moved.states[last * state + k];
    return loss.imag() * 1e30;
}

void check_reference(const Case& c) {
    begin_case("reference %s", c.title().c_str());
    const Recurrence<double> recurrence(c);
    auto computed = recurrence.reference<double>();
    computed.forward();
    computed.backward(recurrence.dh, recurrence.dh_last);
    const std::complex<double> step(0, 1e-30);
    std::vector<double> dgx, dh0, db;
    for (index k = 0; k < index(recurrence.gx.size()); ++k)
        dgx.push_back(slope(recurrence, [&](auto& moved) { moved.gx[k] += step; }));
    for (index k = 0; k < index(recurrence.h0.size()); ++k)
        dh0.push_back(slope(recurrence, [&](auto& moved) { moved.h0[k] += step; }));
    for (index k = 0; k < index(recurrence.b_hn.size()); ++k)
        db.push_back(slope(recurrence, [&](auto& moved) { moved.b[k] += step; }));
    std::vector<double> of_b(db.size());  // the sum of dgh_n over steps and rows
    for (index k = 0; k < index(computed.dgh_n.size()) && c.bias; ++k)
        of_b[k % c.H] += computed.dgh_n[k];
    expect_close("dgx", {c.T, c.N, 3 * c.H}, computed.dgx.data(), dgx, 64);
    expect_close("dh0", {c.N, c.H}, computed.dh0.data(), dh0, 64);
    expect_close("sum of dgh_n", {c.H}, of_b.data(), db, 64);
}

}  // namespace

void test_reference(const Options&) {
    for (bool reverse : {false, true})
        for (bool ragged : {false, true}) {
            check_reference({3, 4, 5, ragged, reverse, true, true});
            check_reference({3, 4, 5, ragged, reverse, false, true, true});
        }
}

void test_recurrence(const Options& options) {
    gru_xp::set_thread_count(1);
    const index rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17};
    const index sizes[] = {1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 49, 65};
    // Sizes around multiples of a chain and of a block, and around a third of a block.
    const index deep[] = {127, 128, 129, 170, 171, 256, 257, 511, 512, 513, 1025};
    const index steps[] = {0, 1, 2, 4};
    int number = 0;
    const auto all = [&](index T, index N, index H) {
        const int ways = options.quick || H > 100 ? 1 : 12;
        for (int way = 0; way < ways; ++way) {
            const int bits = ways == 1 ? number * 5 % 12 : way;  // no bias, bias, reset before
            guard_at_front = number % 2;
            ++number;
            const Case c{T, N, H, (bits & 1) != 0, (bits & 2) != 0, bits / 4 == 1, true, bits / 4 == 2};
            check<float>(options, c);
            check<double>(options, c);
            if (options.quick && number % 4) continue;
            Case untaped = c;
            untaped.tape = false;
            check<float>(options, untaped);
            check<double>(options, untaped);
        }
    };
    int place = 0;
    for (index T : steps)
        for (index N : rows)
            for (index H : sizes)
                if (++place, !options.quick || place % 5 == 0) all(T, N, H);
    for (index H : deep)
        for (index N : {1, 3, 4, 9, 17})
            if (H < 1000 ? !options.quick || (N == 9 && (H == 257 || H == 513)) || (N == 3 && H == 512)
                         : N == 9)
                all(2, N, H);
    all(2, 0, 9);
    for (bool reverse : {false, true})
        for (bool reset_before : {false, true}) {
            check_all_padding<float>(options, reverse, reset_before);
            check_all_padding<double>(options, reverse, reset_before);
        }
}

}  // namespace gru_xp_tests
