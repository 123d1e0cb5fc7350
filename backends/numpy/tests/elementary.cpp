// Tests tanh and the logistic function on arrays of every length up to more than a vector's.
#include "guarded.hpp"

namespace gru_xp_tests {
namespace {

template <class T>
void check(const char* set, bool quick) {
    const auto& k = kernels_of<T>(*gru_xp::choose_instruction_set(set));
    const T inf = std::numeric_limits<T>::infinity();
    const std::vector<T> special = {T(0), -T(0),  T(1e-30), inf,      -inf,     T(1e30), T(-1e30),
                                    T(9), T(-20), T(0.17),  T(0.347), T(-0.35), T(0.55), T(19.1)};
    Random random(7);
    for (index count = 0; count <= (quick ? 20 : 70); ++count) {
        guard_at_front = count % 2;
        std::vector<T> x = random.numbers<T>(count, count % 3 ? 4 : 0.5);
        for (index i = 0; i < count; i += 3) x[i] = special[random.below(index(special.size()))];
        const Input<T> input(x);
        std::vector<Exact<T>> tanh_x, sizes, sigmoid_x;
        for (T each : x) {
            tanh_x.push_back(std::tanh(Exact<T>(each)));
            sizes.push_back(std::abs(tanh_x.back()));
            sigmoid_x.push_back(1 / (1 + std::exp(-Exact<T>(each))));
        }
        begin_case("elementary %s %s count=%td", type_name<T>, set, count);
        Output<T> of_tanh(count), of_sigmoid(count);
        k.tanh(input.data(), of_tanh.data(), count);
        k.sigmoid(input.data(), of_sigmoid.data(), count);
        const double allowed = sizeof(T) == 4 ? 2 : 4;
        expect_close("tanh", {count}, of_tanh.data(), tanh_x, allowed, &sizes);
        expect_close("sigmoid", {count}, of_sigmoid.data(), sigmoid_x, allowed);
        of_tanh.expect_intact("tanh");
        of_sigmoid.expect_intact("sigmoid");
    }
    begin_case("elementary %s %s NaN", type_name<T>, set);
    const Input<T> nan({std::numeric_limits<T>::quiet_NaN()});
    Output<T> out(1);
    out.data()[0] = 0;
    k.tanh(nan.data(), out.data(), 1);
    expect(std::isnan(out.data()[0]), "tanh of NaN is a number");
}

}  // namespace

void test_elementary(const Options& options) {
    for (const char* set : options.sets) {
        check<float>(set, options.quick);
        check<double>(set, options.quick);
    }
}

}  // namespace gru_xp_tests
