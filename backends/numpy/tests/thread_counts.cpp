// Tests that whole computations give the same bits on one to four threads. The sizes cover each way
// of sharing work among threads in drive.cpp and plan.hpp.
#include <memory>
#include <thread>

#include "plan.hpp"
#include "recurrence.hpp"

namespace gru_xp_tests {
namespace {

constexpr int most_threads = 4;

template <class T>
void check_recurrence(const char* set, const Case& c) {
    gru_xp::choose_instruction_set(set);
    const Recurrence<T> recurrence(c);
    // The backward pass does not need the tape of a real forward pass.
    auto some = recurrence.reference();
    Random random(9);
    for (auto* each : {&some.states, &some.r, &some.z, &some.n, &some.gh_n})
        *each = random.numbers<Exact<T>>((c.T + 1) * c.N * c.H, 0.9);
    std::unique_ptr<ForwardRun<T>> one;
    std::unique_ptr<BackwardRun<T>> one_back;
    for (int count = 1; count <= most_threads; ++count) {
        gru_xp::set_thread_count(count);
        begin_case("%d threads, %s %s %s", count, type_name<T>, set, c.title().c_str());
        auto run = std::make_unique<ForwardRun<T>>(recurrence);
        gru_xp::forward(run->arguments());
        auto back = std::make_unique<BackwardRun<T>>(recurrence, some);
        gru_xp::backward(back->arguments(), back->weight_hh());
        if (count == 1) {
            one = std::move(run);
            one_back = std::move(back);
            continue;
        }
        run->expect_same_bits_as(*one);
        back->expect_same_bits_as(*one_back);
    }
}

template <class T>
void check_product(const char* set, index rows, index depth, index columns, bool transposed) {
    gru_xp::choose_instruction_set(set);
    Random random(5);
    const Input<T> a(random.numbers<T>(rows * depth, 1)), b(random.numbers<T>(depth * columns, 1));
    const Input<T> bias(random.numbers<T>(columns, 1));
    Output<T> one(rows * columns);
    for (int count = 1; count <= most_threads; ++count) {
        gru_xp::set_thread_count(count);
        begin_case("%d threads, product %s %s %td %td %td%s", count, type_name<T>, set, rows,
                   depth, columns, transposed ? " a.T" : "");
        Output<T> several(rows * columns);
        Output<T>& out = count == 1 ? one : several;
        gru_xp::product<T>({a.data(), transposed ? 1 : depth, transposed ? rows : 1, b.data(), 1,
                            depth, bias.data(), out.data(), rows, depth, columns});
        out.expect_intact("out");
        expect_same_bits("out", {rows, columns}, out.data(), one.data(), out.size());
    }
}

// Checks several concurrent callers. At most one of them gets the workers; the others work alone.
template <class T>
void check_callers(const char* set, const Case& c, int rounds) {
    gru_xp::choose_instruction_set(set);
    gru_xp::set_thread_count(most_threads);
    begin_case("callers at once, %s %s %s", type_name<T>, set, c.title().c_str());
    const Recurrence<T> recurrence(c);
    auto some = recurrence.reference();
    some.forward();
    ForwardRun<T> alone(recurrence);
    gru_xp::forward(alone.arguments());
    BackwardRun<T> alone_back(recurrence, some);
    gru_xp::backward(alone_back.arguments(), alone_back.weight_hh());
    for (int round = 0; round < rounds; ++round) {
        std::vector<std::unique_ptr<ForwardRun<T>>> runs;
        std::vector<std::unique_ptr<BackwardRun<T>>> backs;
        for (int i = 0; i < most_threads; ++i) {
            runs.push_back(std::make_unique<ForwardRun<T>>(recurrence));
            backs.push_back(std::make_unique<BackwardRun<T>>(recurrence, some));
        }
        std::vector<std::thread> callers;
        for (int i = 0; i < most_threads; ++i)
            callers.emplace_back([&, i] {
                gru_xp::forward(runs[size_t(i)]->arguments());
                gru_xp::backward(backs[size_t(i)]->arguments(), backs[size_t(i)]->weight_hh());
            });
        for (auto& caller : callers) caller.join();
        for (int i = 0; i < most_threads; ++i) {
            runs[size_t(i)]->expect_same_bits_as(alone);
            backs[size_t(i)]->expect_same_bits_as(alone_back);
        }
    }
}

// Checks how two threads share recurrences of float32 with one round per step.
void check_plans() {
    const struct {
        index rows, size;
        int shares;
        bool by_rows;
    } wanted[] = {
        {1, 64, 1, true},      // steps too short to synchronize after each
        {1, 256, 2, false},    // reading the weights takes as long as computing ten rows
        {4, 256, 2, false},    //
        {3, 100, 2, true},     // too short again, but rows can be shared
        {8, 256, 2, true},     // enough rows, and the weights fit into a core's cache
        {64, 1024, 2, false},  // the weights exceed a core's cache
    };
    for (const auto& w : wanted) {
        begin_case("plan of %td rows, %td units", w.rows, w.size);
        const gru_xp::Plan plan = gru_xp::plan(2, w.rows, w.size, w.size / 8, sizeof(float), 1);
        expect(plan.shares == w.shares && plan.by_rows == w.by_rows,
               text("%d shares of %s", plan.shares, plan.by_rows ? "rows" : "columns"));
    }
}

template <class T>
void check_all(const char* set, bool quick) {
    // Shares of rows in whole tiles; of single rows; of vectors of units; of vectors in spite of
    // many rows, because the weights exceed a core's cache; of few rows, because the steps are too
    // short to synchronize after each.
    check_recurrence<T>(set, {24, 67, 33, true, false, true, true});
    check_recurrence<T>(set, {24, 17, 65, true, true, false, false});
    check_recurrence<T>(set, {24, 33, 65, true, true, false, true, true});
    check_recurrence<T>(set, {40, 5, 97, true, true, true, true});
    check_recurrence<T>(set, {8, 5, 191, true, true, false, true});
    check_recurrence<T>(set, {2, 17, 301, false, false, true, true});
    check_recurrence<T>(set, {2, 17, 301, true, false, false, true, true});
    check_recurrence<T>(set, {90, 3, 81, false, true, true, false});
    check_recurrence<T>(set, {13, 24, 200, true, true, false, true});  // rows, several stages
    check_recurrence<T>(set, {1, 1, 930, true, false, true, true});  // not packed
    check_recurrence<T>(set, {1, 1, 930, false, true, false, true, true});
    check_product<T>(set, 300, 65, 301, false);   // by rows
    check_product<T>(set, 61, 300, 299, false);   // by columns
    check_product<T>(set, 1100, 33, 160, true);   // by rows, interleaved
    check_callers<T>(set, {40, 5, 97, true, false, true, true}, quick ? 1 : 5);
    if (quick) return;
    check_recurrence<T>(set, {8, 1, 421, false, false, true, true});
    check_recurrence<T>(set, {5, 131, 70, true, true, true, true});
    check_recurrence<T>(set, {13, 8, 200, true, false, false, true});
    check_product<T>(set, 513, 513, 513, false);
    check_product<T>(set, 513, 513, 40, true);
}

}  // namespace

void test_thread_counts(const Options& options) {
    check_plans();
    bool doubles = true;
    for (const char* set : options.sets) {
        if (!options.quick || !doubles) check_all<float>(set, options.quick);
        if (!options.quick || doubles) check_all<double>(set, options.quick);
        doubles = !doubles;
    }
}

}  // namespace gru_xp_tests
