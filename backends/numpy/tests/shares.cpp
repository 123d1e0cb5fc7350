// Tests the kernels themselves, divided by rows and by vectors of columns wherever possible. The
// bits must not depend on the shares, on other rows or on other calls.
#include <memory>
#include <thread>

#include "recurrence.hpp"

namespace gru_xp_tests {
namespace {

using gru_xp::Range;
using gru_xp::Share;

// Calls body(range) for each range between neighbouring edges, each on a thread of its own.
template <class F>
void at_once(const std::vector<index>& edges, F body) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i + 1 < edges.size(); ++i)
        threads.emplace_back([&, i] { body(Range{edges[i], edges[i + 1]}); });
    for (auto& thread : threads) thread.join();
}

std::string edges_of(const std::vector<index>& edges) {
    std::string result;
    for (index each : edges) result += " " + std::to_string(each);
    return result;
}

// Returns ways to cut [0, count): into two at every place (or with `few` at a few places), and once
// into four.
std::vector<std::vector<index>> cuts(index count, bool few) {
    std::vector<std::vector<index>> result;
    for (index at = 1; at < count; at += few ? std::max(index(1), count / 3) : 1)
        result.push_back({0, at, count});
    if (count >= 4) result.push_back({0, count / 4, count / 2, count - 1, count});
    return result;
}

// Calls body(share) for all shares concurrently.
template <class F>
void shared(int shares, F body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < shares; ++i) threads.emplace_back([&, i] { body(Share{i, shares}); });
    for (auto& thread : threads) thread.join();
}

// Packs weights in one share and in several, checks that the results are equal, and returns them.
template <class T, class Pack>
Output<T> packed(const char* name, index numbers, Pack pack) {
    Output<T> whole(numbers, 0);
    pack(whole.data(), Share{0, 1});
    whole.expect_intact(name);
    for (int shares = 2; shares <= 4; ++shares) {
        Output<T> parts(numbers, 0);
        shared(shares, [&](Share own) { pack(parts.data(), own); });
        expect_same_bits(name, {numbers}, parts.data(), whole.data(), whole.size());
        parts.expect_intact(name);
    }
    return whole;
}

template <class T>
void check_recurrence(const char* set, const Case& c, bool few) {
    const auto& k = kernels_of<T>(*gru_xp::choose_instruction_set(set));
    const index numbers = 3 * (c.H + k.width - 1) / k.width * k.width * c.H;
    const int group = k.group(c.N);
    const std::string title = text("%s %s %s", type_name<T>, set, c.title().c_str());
    begin_case("packing %s", title.c_str());
    const Recurrence<T> recurrence(c);
    const Input<T> weights(recurrence.weight_hh);
    auto of_forward = packed<T>("pack_forward", numbers, [&](T* to, Share own) {
        k.pack_forward(to, weights.data(), c.H, c.H, !c.reset_before, group, own);
    });
    auto of_backward = packed<T>("pack_backward", numbers, [&](T* to, Share own) {
        k.pack_backward(to, weights.data(), c.H, group, own);
    });
    auto expected = recurrence.reference();
    expected.forward();

    const index rounds = c.T * (c.reset_before ? 2 : 1);
    const Range all{0, rounds};
    const Share alone{0, 1};
    const auto forward = [&](ForwardRun<T>& run, Range rows, Share columns, Range of,
                             bool is_packed = true) {
        auto p = run.arguments();
        p.packed = is_packed ? of_forward.data() : nullptr;
        p.group = group;
        k.forward(p, rows, columns, of);
    };
    const auto backward = [&](BackwardRun<T>& run, Range rows, Share columns, Range of) {
        auto p = run.arguments();
        p.packed = of_backward.data();
        p.group = group;
        if (of.begin < 0)
            k.backward_start(p, rows, columns);
        else
            k.backward(p, rows, columns, of);
    };
    const Range start{-1, 0};
    begin_case("shares %s", title.c_str());
    ForwardRun<T> whole(recurrence);
    BackwardRun<T> whole_back(recurrence, expected);
    forward(whole, {0, c.N}, alone, all);
    backward(whole_back, {0, c.N}, alone, start);
    backward(whole_back, {0, c.N}, alone, all);

    for (const auto& edges : cuts(c.N, few)) {
        begin_case("shares of rows%s %s", edges_of(edges).c_str(), title.c_str());
        ForwardRun<T> run(recurrence), unpacked(recurrence);
        BackwardRun<T> back(recurrence, expected);
        at_once(edges, [&](Range rows) {
            backward(back, rows, alone, start);
            for (index t = 0; t < rounds; ++t) forward(run, rows, alone, {t, t + 1});
            forward(unpacked, rows, alone, all, false);
            backward(back, rows, alone, {0, 1});  // the first round, then the rest
            backward(back, rows, alone, {1, rounds});
        });
        run.expect_same_bits_as(whole);
        unpacked.expect_same_bits_as(whole);
        back.expect_same_bits_as(whole_back);
    }
    for (int shares = 2; shares <= 4; ++shares) {
        begin_case("%d shares of columns %s", shares, title.c_str());
        ForwardRun<T> run(recurrence), unpacked(recurrence);
        BackwardRun<T> back(recurrence, expected);
        shared(shares, [&](Share own) { backward(back, {0, c.N}, own, start); });
        for (index t = 0; t < rounds; ++t)
            shared(shares, [&](Share own) {
                forward(run, {0, c.N}, own, {t, t + 1});
                forward(unpacked, {0, c.N}, own, {t, t + 1}, false);
                backward(back, {0, c.N}, own, {t, t + 1});
            });
        run.expect_same_bits_as(whole);
        unpacked.expect_same_bits_as(whole);
        back.expect_same_bits_as(whole_back);
    }
}

// Checks that a row computed alone, and a step computed alone, give the same bits. The weights of a
// single step are not packed beforehand.
template <class T>
void check_alone(const char* set, const Case& c) {
    gru_xp::choose_instruction_set(set);
    const Recurrence<T> recurrence(c);
    ForwardRun<T> whole(recurrence);
    gru_xp::forward(whole.arguments());
    for (index i = 0; i < c.N; ++i) {
        begin_case("row %td alone, %s %s %s", i, type_name<T>, set, c.title().c_str());
        Recurrence<T> one(Case{c.T, 1, c.H, c.ragged, c.reverse, c.bias, c.tape, c.reset_before});
        one.weight_hh = recurrence.weight_hh;
        one.b_hn = recurrence.b_hn;
        one.h0.assign(&recurrence.h0[i * c.H], &recurrence.h0[i * c.H] + c.H);
        if (c.ragged) one.lengths = {recurrence.lengths[i]};
        for (index t = 0; t < c.T; ++t)
            std::copy_n(&recurrence.gx[(t * c.N + i) * 3 * c.H], 3 * c.H, &one.gx[t * 3 * c.H]);
        ForwardRun<T> run(one);
        gru_xp::forward(run.arguments());
        for (index t = 0; t <= c.T; ++t)
            expect_same_bits("state", {c.H}, run.states.data() + t * c.H,
                             whole.states.data() + (t * c.N + i) * c.H, c.H);
    }
    const index state = c.N * c.H;
    for (index t = 0; t < c.T && !c.ragged; ++t) {
        begin_case("step %td alone, %s %s %s", t, type_name<T>, set, c.title().c_str());
        Recurrence<T> one(
            Case{1, c.N, c.H, false, c.reverse, c.bias, false, c.reset_before});
        one.weight_hh = recurrence.weight_hh;
        one.b_hn = recurrence.b_hn;
        const T* before = whole.states.data() + (c.reverse ? t + 1 : t) * state;
        one.h0.assign(before, before + state);
        one.gx.assign(&recurrence.gx[t * 3 * state], &recurrence.gx[t * 3 * state] + 3 * state);
        ForwardRun<T> run(one);
        gru_xp::forward(run.arguments());
        expect_same_bits("state", {c.N, c.H}, run.states.data() + (c.reverse ? 0 : state),
                         whole.states.data() + (c.reverse ? t : t + 1) * state, state);
    }
}

template <class T>
void check_product(const char* set, index rows, index depth, index columns, bool transposed,
                   bool few) {
    const auto& k = kernels_of<T>(*gru_xp::choose_instruction_set(set));
    const index vectors = (columns + k.width - 1) / k.width;
    Random random(3);
    const Input<T> a(random.numbers<T>(rows * depth, 1)), b(random.numbers<T>(depth * columns, 1));
    const Input<T> bias(random.numbers<T>(columns, 1));
    const auto run = [&](Output<T>& out, Range of_rows, Range of_vectors) {
        const index a_row = transposed ? 1 : depth, a_step = transposed ? rows : 1;
        k.product({a.data(), a_row, a_step, b.data(), columns, 1, bias.data(), out.data(), rows,
                   depth, columns},
                  of_rows, of_vectors);
    };
    Output<T> whole(rows * columns);
    run(whole, {0, rows}, {0, vectors});
    for (bool by_rows : {true, false})
        for (const auto& edges : cuts(by_rows ? rows : vectors, few)) {
            begin_case("shares of %s%s of product %s %s %td %td %td%s", by_rows ? "rows" : "vectors",
                       edges_of(edges).c_str(), type_name<T>, set, rows, depth, columns,
                       transposed ? " a.T" : "");
            Output<T> parts(rows * columns);
            for (size_t i = 0; i + 1 < edges.size(); ++i) {
                const Range part{edges[i], edges[i + 1]};
                run(parts, by_rows ? part : Range{0, rows}, by_rows ? Range{0, vectors} : part);
            }
            expect_same_bits("out", {rows, columns}, parts.data(), whole.data(), parts.size());
            parts.expect_intact("out");
        }
}

template <class T>
void check_all(const char* set, bool quick) {
    for (bool reverse : {false, true}) {
        check_recurrence<T>(set, {3, 3, 49, reverse, reverse, true, true}, quick);
        check_recurrence<T>(set, {4, 9, 65, !reverse, reverse, false, true}, quick);
        check_recurrence<T>(set, {3, 9, 41, reverse, !reverse, false, true, true}, quick);
        check_alone<T>(set, {4, 9, 33, reverse, reverse, true, true});
        check_alone<T>(set, {3, 5, 35, reverse, !reverse, false, true, true});
        if (!quick) {
            check_recurrence<T>(set, {2, 2, 260, reverse, reverse, true, true}, quick);
            check_recurrence<T>(set, {2, 33, 113, !reverse, reverse, true, true}, quick);
            check_alone<T>(set, {2, 17, 515, !reverse, reverse, true, false});
            check_alone<T>(set, {3, 7, 97, reverse, reverse, false, true});
        }
        check_product<T>(set, 19, 515, 97, reverse, quick);
    }
}

}  // namespace

void test_shares(const Options& options) {
    gru_xp::set_thread_count(1);
    for (const char* set : options.sets) {
        check_all<float>(set, options.quick);
        check_all<double>(set, options.quick);
    }
}

}  // namespace gru_xp_tests
