// The extension module. Its functions take and return NumPy arrays. They release the GIL while
// computing, except for steps and sequences so short that releasing it may cost more time.
//
// A function returns NotImplemented for arguments that it does not support. `threads` is the
// largest number of threads that the call may use; 0 means the number set for all calls. Shapes are
// checked at the entrance of the package, and checked again here only where memory safety depends
// on them.
#define GRU_XP_IMPORTS_NUMPY
#include "arrays.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "drive.hpp"
#include "stream_object.hpp"

using namespace gru_xp;

namespace {

// Returns the lengths as a contiguous int64 array (rows,), or an invalid object for None.
nb::object lengths_of(nb::handle lengths, ptrdiff_t rows) {
    if (lengths.is_none()) return nb::object();
    nb::object array = nb::steal(PyArray_FROM_OTF(lengths.ptr(), NPY_INT64,
                                                  NPY_ARRAY_CARRAY_RO | NPY_ARRAY_FORCECAST));
    if (!array.is_valid()) throw nb::python_error();
    if (PyArray_NDIM(as_array(array)) != 1 || PyArray_DIM(as_array(array), 0) != rows)
        throw nb::value_error("gru_xp_numpy: lengths must be of shape (N,)");
    return array;
}

const int64_t* numbers(const nb::object& lengths) {
    return lengths.is_valid() ? static_cast<const int64_t*>(PyArray_DATA(as_array(lengths)))
                              : nullptr;
}

// Returns a view of entries [from, from + steps) along the first axis of a stack of states, such as
// (steps + 1, N, H).
nb::object steps_of(const nb::object& stack, ptrdiff_t from, ptrdiff_t steps) {
    return stack[nb::slice(nb::int_(from), nb::int_(from + steps), nb::int_(1))];
}

template <class T>
nb::object forward_of(nb::handle gx, nb::handle h0, nb::handle weight_hh, nb::handle b_hn,
                      nb::handle lengths, bool reverse, bool reset_after, bool keep_tape) {
    const ptrdiff_t steps = extent(gx, 0), rows = extent(h0, 0), size = extent(h0, 1);
    const Input<T> gx_in(gx, {steps, rows, 3 * size}), h0_in(h0, {rows, size});
    const Input<T> weight_in(weight_hh, {3 * size, size}), b_in(b_hn, {size});
    const nb::object lengths_in = lengths_of(lengths, rows);
    const Output<T> states({steps + 1, rows, size});
    Forward<T> p{};
    p.steps = steps;
    p.rows = rows;
    p.size = size;
    p.gx = gx_in.data();
    p.weight_hh = weight_in.data();
    p.b_hn = b_in.data();
    p.lengths = numbers(lengths_in);
    p.states = states.data();
    p.reverse = reverse;
    p.reset_after = reset_after;
    nb::object gates = nb::none();
    if (keep_tape) {
        const Outputs<T> of_tape(reset_after ? 4 : 3, steps * rows * size);
        p.r = of_tape.data(0);
        p.z = of_tape.data(1);
        p.n = of_tape.data(2);
        if (reset_after) p.gh_n = of_tape.data(3);
        const auto gate = [&](int number) { return of_tape.array(number, {steps, rows, size}); };
        gates = nb::make_tuple(gate(0), gate(1), gate(2), reset_after ? gate(3) : nb::none());
    }
    std::copy_n(h0_in.data(), rows * size,
                p.states + (reverse ? steps * rows * size : ptrdiff_t(0)));
    {
        nb::gil_scoped_release unlocked;
        forward(p);
    }
    return nb::make_tuple(states.object(), gates);
}

template <class T>
nb::object backward_of(nb::handle dh, nb::handle dh_last, nb::handle h_prev, nb::handle r,
                       nb::handle z, nb::handle n, nb::handle gh_n, nb::handle weight_hh,
                       nb::handle lengths, bool reverse, bool reset_after) {
    const ptrdiff_t steps = extent(dh, 0), rows = extent(dh, 1), size = extent(dh, 2);
    const auto of_steps = {steps, rows, size};
    const Input<T> dh_in(dh, of_steps), h_in(h_prev, of_steps), r_in(r, of_steps);
    const Input<T> z_in(z, of_steps), n_in(n, of_steps), gh_n_in(gh_n, of_steps);
    const Input<T> last_in(dh_last, {rows, size}), weight_in(weight_hh, {3 * size, size});
    const nb::object lengths_in = lengths_of(lengths, rows);
    if (gh_n.is_none() == reset_after)
        throw nb::value_error("gru_xp_numpy.backward: this tape is of the other reset_after");
    const Output<T> dgx({steps, rows, 3 * size}), dh0({rows, size});
    // If the reset gate acts before the product, the gradient of n's product is dgx's part for n.
    const Output<T> dgh_n({reset_after ? steps : 0, rows, size});
    if (last_in.data())
        std::copy_n(last_in.data(), rows * size, dh0.data());
    else
        std::fill_n(dh0.data(), rows * size, T(0));
    Backward<T> p{};
    p.steps = steps;
    p.rows = rows;
    p.size = size;
    p.dh = dh_in.data();
    p.lengths = numbers(lengths_in);
    p.h_prev = h_in.data();
    p.r = r_in.data();
    p.z = z_in.data();
    p.n = n_in.data();
    p.gh_n = gh_n_in.data();
    p.carried = dh0.data();
    p.dgx = dgx.data();
    p.dgh_n = reset_after ? dgh_n.data() : nullptr;
    p.reverse = reverse;
    p.reset_after = reset_after;
    {
        nb::gil_scoped_release unlocked;
        backward(p, weight_in.data());
    }
    if (reset_after) return nb::make_tuple(dgx.object(), dgh_n.object(), dh0.object());
    const nb::object of_n = dgx.object()[nb::make_tuple(
        nb::ellipsis(), nb::slice(nb::int_(2 * size), nb::int_(3 * size), nb::int_(1)))];
    return nb::make_tuple(dgx.object(), of_n, dh0.object());
}

// A matrix and its strides, in elements. Uses the matrix in place if its elements are contiguous
// along one of the axes, and a copy otherwise.
template <class T>
struct Matrix {
    explicit Matrix(nb::handle object) : array(nb::borrow(object)) {
        const auto fits = [&] {
            PyArrayObject* a = as_array(array);
            for (int axis = 0; axis < 2; ++axis)
                stride[axis] = PyArray_STRIDE(a, axis) / ptrdiff_t(sizeof(T));
            const bool whole = PyArray_STRIDE(a, 0) % ptrdiff_t(sizeof(T)) == 0 &&
                               PyArray_STRIDE(a, 1) % ptrdiff_t(sizeof(T)) == 0;
            return PyArray_ISALIGNED(a) && whole && (stride[0] == 1 || stride[1] == 1);
        };
        if (!fits()) {
            array = nb::steal(PyArray_FROM_OTF(array.ptr(), type_number<T>, NPY_ARRAY_CARRAY_RO));
            if (!array.is_valid()) throw nb::python_error();
            // Not from the copy's strides: NumPy may give an axis of one element any stride.
            stride[0] = extent(array, 1);
            stride[1] = 1;
        }
    }
    const T* data() const { return static_cast<const T*>(PyArray_DATA(as_array(array))); }

    nb::object array;
    ptrdiff_t stride[2];
};

template <class T>
nb::object matmul_of(nb::handle a, nb::handle b, nb::handle bias) {
    const ptrdiff_t rows = extent(a, 0), depth = extent(a, 1), columns = extent(b, 1);
    if (extent(b, 0) != depth)
        throw nb::value_error("gru_xp_numpy.matmul: the inner dimensions differ");
    const Matrix<T> left(a), right(b);
    const Input<T> bias_in(bias, {columns});
    const Output<T> out({rows, columns});
    const Product<T> p{left.data(),
                       left.stride[0],
                       left.stride[1],
                       right.data(),
                       right.stride[0],
                       right.stride[1],
                       bias_in.data(),
                       out.data(),
                       rows,
                       depth,
                       columns};
    {
        nb::gil_scoped_release unlocked;
        product(p);
    }
    return out.object();
}

template <class T>
nb::object step_of(nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                   nb::handle bias_ih, nb::handle bias_hh, bool reset_after) {
    PyArrayObject* input = as_array(x);
    const int axes = PyArray_NDIM(input);
    Step<T> p{};
    p.rows = axes == 2 ? PyArray_DIM(input, 0) : 1;
    p.size = extent(weight_hh, 1);
    p.weights = weights_of<T>(weight_ih, weight_hh, bias_ih, bias_hh);
    npy_intp shape[2] = {p.rows, p.size};
    npy_intp* shape_h = shape + (2 - axes);
    nb::object out = nb::steal(PyArray_SimpleNew(axes, shape_h, type_number<T>));
    if (!out.is_valid()) throw nb::python_error();
    p.x = data_of<T>(x);
    p.h = data_of<T>(h);
    p.h_next = static_cast<T*>(PyArray_DATA(as_array(out)));
    p.reset_after = reset_after;
    if (double(p.rows) * double(p.size) * double(p.weights.input_size + p.size) > 5e4) {
        nb::gil_scoped_release unlocked;
        step(p);
    } else {
        step(p);
    }
    return out;
}

// Returns whether `step` can be computed directly. Unusual arguments are left to the portable path,
// which also reports invalid ones.
bool is_plain_step(nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                   nb::handle bias_ih, nb::handle bias_hh) {
    if (!in_place(x) || !in_place(h) || !are_plain_weights(weight_ih, weight_hh, bias_ih, bias_hh))
        return false;
    const ptrdiff_t inputs = extent(weight_ih, 1), size = extent(weight_hh, 1);
    switch (PyArray_NDIM(as_array(x))) {
        case 1:
            return shape_is(x, {inputs}) && shape_is(h, {size});
        case 2:
            return shape_is(x, {extent(x, 0), inputs}) && shape_is(h, {extent(x, 0), size});
        default:
            return false;
    }
}

// Computes whole sequences. x and h0 are as the user gave them: x is (steps, rows, input size),
// with `batch_first` (rows, steps, input size), or (steps, input size).
template <class T>
nb::object sequence_of(nb::handle x, nb::handle h0, const std::vector<Weights<T>>& weights,
                       ptrdiff_t size, int directions, bool reset_after, bool batch_first) {
    const int axes = PyArray_NDIM(as_array(x));
    const bool swapped = batch_first && axes == 3;
    const auto turned = [&](nb::handle array) {
        nb::object view = nb::steal(PyArray_SwapAxes(as_array(array), 0, 1));
        if (!view.is_valid()) throw nb::python_error();
        return view;
    };
    const nb::object time_first = swapped ? turned(x) : nb::borrow(x);
    Sequence<T> p{};
    p.steps = extent(time_first, 0);
    p.rows = axes == 3 ? extent(time_first, 1) : 1;
    p.size = size;
    p.layers = ptrdiff_t(weights.size()) / directions;
    p.directions = directions;
    p.weights = weights.data();
    p.reset_after = reset_after;
    const Input<T> input(time_first);
    p.x = input.data();
    p.h0 = data_of<T>(h0);
    const bool two = directions == 2;
    const npy_intp number = npy_intp(weights.size());
    const Output<T> h_n = axes == 3 ? Output<T>({number, p.rows, size}) : Output<T>({number, size});
    const ptrdiff_t all = p.steps + (two ? 0 : 1), across = directions * size;
    const Output<T> y = axes == 3 ? Output<T>({all, p.rows, across}) : Output<T>({all, across});
    p.h_n = h_n.data();
    p.y = y.data();
    double numbers = 0;
    for (const Weights<T>& each : weights) numbers += double(size) * double(each.input_size + size);
    if (double(p.steps) * double(p.rows) * numbers > 5e4) {
        nb::gil_scoped_release unlocked;
        sequence(p);
    } else {
        sequence(p);
    }
    const nb::object out = two ? y.object() : steps_of(y.object(), 1, p.steps);
    return nb::make_tuple(swapped ? turned(out) : out, h_n.object());
}

// Like `is_plain_step`, for `sequence`. The weights have already been checked. x may be
// noncontiguous, but must not be empty.
bool is_plain_sequence(nb::handle x, nb::handle h0, ptrdiff_t number, ptrdiff_t inputs,
                       ptrdiff_t size, bool batch_first) {
    if (!PyArray_CheckExact(x.ptr()) || !(h0.is_none() || PyArray_CheckExact(h0.ptr()))) return false;
    const int axes = PyArray_NDIM(as_array(x));
    if ((axes != 2 && axes != 3) || extent(x, axes - 1) != inputs || PyArray_SIZE(as_array(x)) == 0)
        return false;
    if (h0.is_none()) return true;
    if (axes == 2) return in_place(h0) && shape_is(h0, {number, size});
    return in_place(h0) && shape_is(h0, {number, extent(x, batch_first ? 0 : 1), size});
}

template <class T>
nb::object map_of(nb::handle x, bool tanh) {
    const ptrdiff_t count = extent(x, 0);
    const Input<T> in(x, {count});
    const Output<T> out({count});
    const auto& k = kernels<T>();
    {
        nb::gil_scoped_release unlocked;
        (tanh ? k.tanh : k.sigmoid)(in.data(), out.data(), count);
    }
    return out.object();
}

int load_numpy() {
    import_array1(-1);
    return 0;
}

}  // namespace

NB_MODULE(_native, m) {
    if (load_numpy() < 0) throw nb::python_error();

    m.def("forward", [](nb::handle gx, nb::handle h0, nb::handle weight_hh, nb::handle b_hn,
                        nb::handle lengths, bool reverse, bool reset_after, bool keep_tape,
                        int threads) {
        const ThreadLimit limit(threads);
        return by_type(common_type({gx, h0, weight_hh, b_hn}), [&](auto t) {
            return forward_of<decltype(t)>(gx, h0, weight_hh, b_hn, lengths, reverse, reset_after,
                                           keep_tape);
        });
    }, nb::arg("gx"), nb::arg("h0"), nb::arg("weight_hh"), nb::arg("b_hn").none(),
       nb::arg("lengths").none(), nb::arg("reverse"), nb::arg("reset_after"), nb::arg("keep_tape"),
       nb::arg("threads") = 0);

    m.def("backward", [](nb::handle dh, nb::handle dh_last, nb::handle h_prev, nb::handle r,
                         nb::handle z, nb::handle n, nb::handle gh_n, nb::handle weight_hh,
                         nb::handle lengths, bool reverse, bool reset_after, int threads) {
        const ThreadLimit limit(threads);
        return by_type(common_type({dh, dh_last, h_prev, r, z, n, gh_n, weight_hh}), [&](auto t) {
            return backward_of<decltype(t)>(dh, dh_last, h_prev, r, z, n, gh_n, weight_hh, lengths,
                                            reverse, reset_after);
        });
    }, nb::arg("dh"), nb::arg("dh_last").none(), nb::arg("h_prev"), nb::arg("r"), nb::arg("z"),
       nb::arg("n"), nb::arg("gh_n").none(), nb::arg("weight_hh"), nb::arg("lengths").none(),
       nb::arg("reverse"), nb::arg("reset_after"), nb::arg("threads") = 0);

    m.def("matmul", [](nb::handle a, nb::handle b, nb::handle bias, int threads) {
        const ThreadLimit limit(threads);
        const int type = common_type({a, b, bias});
        if (type == -1 || PyArray_NDIM(as_array(a)) != 2 || PyArray_NDIM(as_array(b)) != 2)
            return not_implemented();
        return by_type(type, [&](auto t) { return matmul_of<decltype(t)>(a, b, bias); });
    }, nb::arg("a"), nb::arg("b"), nb::arg("bias").none(),
       nb::arg("threads") = 0);

    m.def("step", [](nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                     nb::handle bias_ih, nb::handle bias_hh, bool reset_after, int threads) {
        const ThreadLimit limit(threads);
        const int type = common_type({x, h, weight_ih, weight_hh, bias_ih, bias_hh});
        // Leave subclasses, such as matrices and masked arrays, to the portable path, which rejects
        // them.
        const auto plain = [](nb::handle o) { return o.is_none() || PyArray_CheckExact(o.ptr()); };
        if (type == -1 || x.is_none() || !plain(x) || !plain(h) || !is_plain_step(x, h, weight_ih, weight_hh, bias_ih, bias_hh))
            return not_implemented();
        return by_type(type, [&](auto t) {
            return step_of<decltype(t)>(x, h, weight_ih, weight_hh, bias_ih, bias_hh, reset_after);
        });
    }, nb::arg("x").none(), nb::arg("h").none(), nb::arg("weight_ih"), nb::arg("weight_hh"),
       nb::arg("bias_ih") = nb::none(), nb::arg("bias_hh") = nb::none(),
       nb::arg("reset_after") = true, nb::arg("threads") = 0);

    // params: one tuple (weight_ih, weight_hh, bias_ih, bias_hh) for each layer and direction
    m.def("sequence", [](nb::handle x, nb::handle h0, nb::tuple params, bool reset_after,
                         bool batch_first, bool bidirectional, int threads) {
        const ThreadLimit limit(threads);
        const int type = type_of(params);
        if (x.is_none() || common_type({x, h0}) != type) return not_implemented();
        return by_type(type, [&](auto t) {
            using T = decltype(t);
            std::vector<Weights<T>> weights;
            ptrdiff_t size = 0;
            if (!weights_of<T>(params, bidirectional ? 2 : 1, weights, size))
                return not_implemented();
            const ptrdiff_t inputs = weights[0].input_size;
            if (!is_plain_sequence(x, h0, ptrdiff_t(weights.size()), inputs, size, batch_first))
                return not_implemented();
            return sequence_of<T>(x, h0, weights, size, bidirectional ? 2 : 1, reset_after,
                                  batch_first);
        });
    }, nb::arg("x").none(), nb::arg("h0").none(), nb::arg("params"), nb::arg("reset_after"),
       nb::arg("batch_first"), nb::arg("bidirectional"), nb::arg("threads") = 0);

    add_stream(m);

    m.def("tanh", [](nb::handle x) {
        return by_type(common_type({x}), [&](auto t) { return map_of<decltype(t)>(x, true); });
    });
    m.def("sigmoid", [](nb::handle x) {
        return by_type(common_type({x}), [&](auto t) { return map_of<decltype(t)>(x, false); });
    });

    m.def("measure_fma_peak", [](const std::string& dtype, double seconds) {
        nb::gil_scoped_release unlocked;
        return dtype == "float64" ? multiply_add_rate<double>(seconds)
                                  : multiply_add_rate<float>(seconds);
    });
    m.def("num_threads", [] { return thread_count(); });
    m.def("set_num_threads", [](int count) { set_thread_count(count); });
    m.def("set_lender", [](uintptr_t address) { set_lender(reinterpret_cast<Lender>(address)); });
    m.def("isa", [] { return std::string(instruction_set().name); });
    m.def("set_isa", [](const std::string& name) {
        return choose_instruction_set(name.c_str()) != nullptr;
    });
}
