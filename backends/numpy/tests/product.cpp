// Tests out = a b + bias for every orientation of a and b, also with gaps between the rows.
#include "guarded.hpp"

namespace gru_xp_tests {
namespace {

struct Sizes {
    index rows, depth, columns;
};

// The layout of a matrix: row-major or transposed, with or without gaps between its rows (or
// columns).
struct Layout {
    bool transposed, spread;
    index outer(index rows, index columns) const {
        return (transposed ? rows : columns) + (spread ? 3 : 0);
    }
};

// Returns a matrix in the given layout. The gaps are NaN, and nothing follows the last element.
template <class T>
std::vector<T> laid_out(const std::vector<T>& matrix, index rows, index columns, Layout layout) {
    if (matrix.empty()) return {};
    const index outer = layout.outer(rows, columns);
    const index lines = layout.transposed ? columns : rows;
    std::vector<T> result(size_t((lines - 1) * outer + (layout.transposed ? rows : columns)),
                          std::numeric_limits<T>::quiet_NaN());
    for (index i = 0; i < rows; ++i)
        for (index j = 0; j < columns; ++j)
            result[layout.transposed ? j * outer + i : i * outer + j] = matrix[i * columns + j];
    return result;
}

template <class T>
void check(const Options& options, Sizes s, Layout of_a, Layout of_b, bool biased) {
    Random random(uint64_t(s.rows + 100 * s.depth + 7 * s.columns));
    const auto a = random.numbers<T>(s.rows * s.depth, 1);
    const auto b = random.numbers<T>(s.depth * s.columns, 1);
    const auto bias = random.numbers<T>(biased ? s.columns : 0, 2);
    using R = Exact<T>;
    std::vector<R> expected(size_t(s.rows * s.columns)), scale(expected.size());
    for (index i = 0; i < s.rows; ++i) {
        R *sum = expected.data() + i * s.columns, *size = scale.data() + i * s.columns;
        for (index k = 0; k < s.depth; ++k)
            for (index j = 0; j < s.columns; ++j) {
                const R term = R(a[i * s.depth + k]) * R(b[k * s.columns + j]);
                sum[j] += term;
                size[j] += std::abs(term);
            }
        for (index j = 0; j < s.columns && biased; ++j) {
            sum[j] += R(bias[j]);
            size[j] += std::abs(R(bias[j]));
        }
    }
    const Input<T> a_in(laid_out(a, s.rows, s.depth, of_a));
    const Input<T> b_in(laid_out(b, s.depth, s.columns, of_b)), bias_in(bias);
    gru_xp::Product<T> p{};
    p.a = a_in.data();
    p.a_row = of_a.transposed ? 1 : of_a.outer(s.rows, s.depth);
    p.a_step = of_a.transposed ? of_a.outer(s.rows, s.depth) : 1;
    p.b = b_in.data();
    p.b_step = of_b.transposed ? 1 : of_b.outer(s.depth, s.columns);
    p.b_column = of_b.transposed ? of_b.outer(s.depth, s.columns) : 1;
    p.bias = biased ? bias_in.data() : nullptr;
    p.rows = s.rows;
    p.depth = s.depth;
    p.columns = s.columns;
    for (const char* set : options.sets) {
        gru_xp::choose_instruction_set(set);
        begin_case("product %s %s rows=%td depth=%td columns=%td%s%s%s%s%s", type_name<T>, set,
                   s.rows, s.depth, s.columns, of_a.transposed ? " a.T" : "",
                   of_a.spread ? " a spread" : "", of_b.transposed ? " b.T" : "",
                   of_b.spread ? " b spread" : "", biased ? " bias" : "");
        Output<T> out(s.rows * s.columns, s.columns % 5);
        p.out = out.data();
        gru_xp::product(p);
        const double allowed = 2 + std::sqrt(double(std::min(s.depth, index(512)))) / 4;
        expect_close("out", {s.rows, s.columns}, out.data(), expected, allowed, &scale);
        out.expect_intact("out");
    }
}

void check_layouts(const Options& options, Sizes s, int from, int step) {
    for (int way = from; way < 32; way += step) {
        guard_at_front = (way + s.rows) % 2;
        const Layout of_a{(way & 1) != 0, (way & 4) != 0}, of_b{(way & 2) != 0, (way & 8) != 0};
        check<float>(options, s, of_a, of_b, (way & 16) != 0);
        check<double>(options, s, of_a, of_b, (way & 16) != 0);
    }
}

}  // namespace

void test_product(const Options& options) {
    gru_xp::set_thread_count(1);
    const index rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33};
    const index depths[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 65, 511, 512, 513, 1025};
    const index columns[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 65, 97, 113};
    int number = 0;
    for (index n : rows)
        for (index k : depths)
            for (index m : columns) {
                ++number;
                // The step is coprime to the lengths of the lists, so the subset covers every
                // value.
                if (options.quick && number % 23 != 0) continue;
                // Test each size in a few of the 32 combinations of layouts and bias, and the next
                // size in others.
                const int of_size = options.quick ? 11 : 5;
                check_layouts(options, {n, k, m}, number % of_size, of_size);
            }
    for (Sizes empty : {Sizes{0, 3, 5}, Sizes{3, 4, 0}, Sizes{0, 0, 0}})
        check_layouts(options, empty, 0, 8);
    // More rows than are packed interleaved at once.
    check_layouts(options, {1031, options.quick ? 17 : 515, 35}, 1, options.quick ? 12 : 2);
}

}  // namespace gru_xp_tests
