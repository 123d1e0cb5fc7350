// The extension module: NumPy arrays in and out, the GIL released while it computes, but for steps
// that take less time than releasing it may cost.
//
// A function returns NotImplemented for arguments that it does not take. Shapes have been checked
// where they entered the package, and are checked again here only where memory depends on it.
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <numpy/arrayobject.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "drive.hpp"

namespace nb = nanobind;
using namespace gru_xp;

namespace {

nb::object not_implemented() { return nb::borrow(Py_NotImplemented); }

PyArrayObject* as_array(nb::handle object) {
    return reinterpret_cast<PyArrayObject*>(object.ptr());
}

template <class T>
constexpr int type_number = sizeof(T) == sizeof(float) ? NPY_FLOAT32 : NPY_FLOAT64;

// The common dtype of arrays, None left out: float32 or float64 in the machine's order, else -1.
int common_type(std::initializer_list<nb::handle> objects) {
    int common = -1;
    for (nb::handle object : objects) {
        if (object.is_none()) continue;
        if (!PyArray_Check(object.ptr())) return -1;
        PyArrayObject* array = as_array(object);
        const int type = PyArray_TYPE(array);
        if ((type != NPY_FLOAT32 && type != NPY_FLOAT64) || !PyArray_ISNOTSWAPPED(array) ||
            (common != -1 && type != common))
            return -1;
        common = type;
    }
    return common;
}

// An array's numbers, row-major and aligned: its own where they are so, else a copy.
template <class T>
class Input {
  public:
    Input(nb::handle object, std::initializer_list<ptrdiff_t> shape) {
        if (object.is_none()) return;
        array_ = nb::steal(PyArray_FROM_OTF(object.ptr(), type_number<T>, NPY_ARRAY_CARRAY_RO));
        if (!array_.is_valid()) throw nb::python_error();
        PyArrayObject* array = as_array(array_);
        bool fits = PyArray_NDIM(array) == int(shape.size());
        int axis = 0;
        for (ptrdiff_t length : shape) fits = fits && PyArray_DIM(array, axis++) == length;
        if (!fits) throw nb::value_error("gru_xp_numpy: an array's shape does not fit the others'");
    }

    const T* data() const {
        return array_.is_valid() ? static_cast<const T*>(PyArray_DATA(as_array(array_))) : nullptr;
    }

  private:
    nb::object array_;
};

template <class T>
class Output {
  public:
    Output(std::initializer_list<npy_intp> shape) {
        array_ = nb::steal(PyArray_SimpleNew(int(shape.size()),
                                             const_cast<npy_intp*>(shape.begin()), type_number<T>));
        if (!array_.is_valid()) throw nb::python_error();
    }

    T* data() const { return static_cast<T*>(PyArray_DATA(as_array(array_))); }
    nb::object object() const { return array_; }

  private:
    nb::object array_;
};

// Arrays side by side in one piece of memory, which lives as long as one of them: a large piece has
// large pages, and arrays of the same size are a few cache lines off the places where, with sizes
// that are powers of two, all of them would fall onto the same lines of the cache.
template <class T>
class Outputs {
  public:
    Outputs(ptrdiff_t arrays, ptrdiff_t numbers_of_each)
        : spacing_((numbers_of_each * ptrdiff_t(sizeof(T)) + 63) / 64 * 64 + 9 * 64),
          memory_({ptrdiff_t(arrays * spacing_ / ptrdiff_t(sizeof(T)))}) {}

    // The `number`th array; its shape has at most the numbers that each was said to have.
    nb::object array(ptrdiff_t number, std::initializer_list<npy_intp> shape) const {
        nb::object view = nb::steal(PyArray_New(
            &PyArray_Type, int(shape.size()), const_cast<npy_intp*>(shape.begin()), type_number<T>,
            nullptr, data(number), 0, NPY_ARRAY_CARRAY, nullptr));
        if (!view.is_valid() ||
            PyArray_SetBaseObject(as_array(view), memory_.object().release().ptr()) < 0)
            throw nb::python_error();
        return view;
    }

    T* data(ptrdiff_t number) const {
        return memory_.data() + number * spacing_ / ptrdiff_t(sizeof(T));
    }

  private:
    ptrdiff_t spacing_;
    Output<T> memory_;
};

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

ptrdiff_t extent(nb::handle array, int axis) {
    if (axis >= PyArray_NDIM(as_array(array)))
        throw nb::value_error("gru_xp_numpy: an array has too few axes");
    return PyArray_DIM(as_array(array), axis);
}

// Steps [from, from + steps) of a stack (steps + 1, N, H).
nb::object steps_of(const nb::object& stack, ptrdiff_t from, ptrdiff_t steps) {
    return stack[nb::slice(nb::int_(from), nb::int_(from + steps), nb::int_(1))];
}

template <class T>
nb::object forward_of(nb::handle gx, nb::handle h0, nb::handle weight_hh, nb::handle b_hn,
                      nb::handle lengths, bool reverse, bool keep_tape) {
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
    nb::object tape = nb::none();
    if (keep_tape) {
        const Outputs<T> of_tape(4, steps * rows * size);
        p.r = of_tape.data(0);
        p.z = of_tape.data(1);
        p.n = of_tape.data(2);
        p.gh_n = of_tape.data(3);
        const auto gate = [&](int number) { return of_tape.array(number, {steps, rows, size}); };
        tape = nb::make_tuple(steps_of(states.object(), reverse ? 1 : 0, steps), gate(0), gate(1),
                              gate(2), gate(3));
    }
    std::copy_n(h0_in.data(), rows * size,
                p.states + (reverse ? steps * rows * size : ptrdiff_t(0)));
    {
        nb::gil_scoped_release unlocked;
        forward(p);
    }
    return nb::make_tuple(steps_of(states.object(), reverse ? 0 : 1, steps), tape);
}

template <class T>
nb::object backward_of(nb::handle dh, nb::handle dh_last, nb::handle h_prev, nb::handle r,
                       nb::handle z, nb::handle n, nb::handle gh_n, nb::handle weight_hh,
                       nb::handle lengths, bool reverse) {
    const ptrdiff_t steps = extent(dh, 0), rows = extent(dh, 1), size = extent(dh, 2);
    const auto of_steps = {steps, rows, size};
    const Input<T> dh_in(dh, of_steps), h_in(h_prev, of_steps), r_in(r, of_steps);
    const Input<T> z_in(z, of_steps), n_in(n, of_steps), gh_n_in(gh_n, of_steps);
    const Input<T> last_in(dh_last, {rows, size}), weight_in(weight_hh, {3 * size, size});
    const nb::object lengths_in = lengths_of(lengths, rows);
    const Output<T> dgx({steps, rows, 3 * size}), dgh_n({steps, rows, size}), dh0({rows, size});
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
    p.dgh_n = dgh_n.data();
    p.reverse = reverse;
    {
        nb::gil_scoped_release unlocked;
        backward(p, weight_in.data());
    }
    return nb::make_tuple(dgx.object(), dgh_n.object(), dh0.object());
}

// A matrix as it lies, if along one of its axes the numbers are neighbours, else a copy.
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
            // NumPy may give an axis of one element any stride.
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

// Whether an array can be read where it is.
bool in_place(nb::handle object) {
    return object.is_none() || PyArray_ISCARRAY_RO(as_array(object));
}

template <class T>
const T* data_of(nb::handle object) {
    return object.is_none() ? nullptr : static_cast<const T*>(PyArray_DATA(as_array(object)));
}

template <class T>
nb::object step_of(nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                   nb::handle bias_ih, nb::handle bias_hh) {
    PyArrayObject* input = as_array(x);
    const int axes = PyArray_NDIM(input);
    Step<T> p{};
    p.rows = axes == 2 ? PyArray_DIM(input, 0) : 1;
    p.input_size = extent(weight_ih, 1);
    p.size = extent(weight_hh, 1);
    npy_intp shape[2] = {p.rows, p.size};
    npy_intp* shape_h = shape + (2 - axes);
    nb::object out = nb::steal(PyArray_SimpleNew(axes, shape_h, type_number<T>));
    if (!out.is_valid()) throw nb::python_error();
    p.x = data_of<T>(x);
    p.h = data_of<T>(h);
    p.weight_ih = data_of<T>(weight_ih);
    p.weight_hh = data_of<T>(weight_hh);
    p.bias_ih = data_of<T>(bias_ih);
    p.bias_hh = data_of<T>(bias_hh);
    p.h_next = static_cast<T*>(PyArray_DATA(as_array(out)));
    if (double(p.rows) * double(p.size) * double(p.input_size + p.size) > 5e4) {
        nb::gil_scoped_release unlocked;
        step(p);
    } else {
        step(p);
    }
    return out;
}

bool shape_is(nb::handle object, std::initializer_list<ptrdiff_t> shape) {
    if (object.is_none()) return true;
    PyArrayObject* array = as_array(object);
    if (PyArray_NDIM(array) != int(shape.size())) return false;
    int axis = 0;
    for (ptrdiff_t length : shape)
        if (PyArray_DIM(array, axis++) != length) return false;
    return true;
}

// Whether `step` can be computed right away; whatever is unusual about its arguments is left to
// the portable path, which also knows what to say about a wrong one.
bool is_plain_step(nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                   nb::handle bias_ih, nb::handle bias_hh) {
    for (nb::handle object : {x, h, weight_ih, weight_hh, bias_ih, bias_hh})
        if (!in_place(object)) return false;
    if (PyArray_NDIM(as_array(weight_ih)) != 2 || PyArray_NDIM(as_array(weight_hh)) != 2 ||
        bias_ih.is_none() != bias_hh.is_none())
        return false;
    const ptrdiff_t inputs = extent(weight_ih, 1), size = extent(weight_hh, 1);
    if (!shape_is(weight_ih, {3 * size, inputs}) || !shape_is(weight_hh, {3 * size, size}) ||
        !shape_is(bias_ih, {3 * size}) || !shape_is(bias_hh, {3 * size}))
        return false;
    switch (PyArray_NDIM(as_array(x))) {
        case 1:
            return shape_is(x, {inputs}) && shape_is(h, {size});
        case 2:
            return shape_is(x, {extent(x, 0), inputs}) && shape_is(h, {extent(x, 0), size});
        default:
            return false;
    }
}

template <class T>
nb::object map_of(nb::handle x, bool tanh) {
    const ptrdiff_t count = extent(x, 0);
    const Input<T> in(x, {count});
    const Output<T> out({count});
    const auto& k = [] () -> const Kernels<T>& {
        if constexpr (sizeof(T) == sizeof(float))
            return instruction_set().f32;
        else
            return instruction_set().f64;
    }();
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

// f(T()) for the arrays' common dtype, or NotImplemented.
template <class F>
nb::object by_type(int type, F f) {
    if (type == NPY_FLOAT32) return f(float());
    if (type == NPY_FLOAT64) return f(double());
    return not_implemented();
}

}  // namespace

NB_MODULE(_native, m) {
    if (load_numpy() < 0) throw nb::python_error();

    m.def("forward", [](nb::handle gx, nb::handle h0, nb::handle weight_hh, nb::handle b_hn,
                        nb::handle lengths, bool reverse, bool keep_tape) {
        return by_type(common_type({gx, h0, weight_hh, b_hn}), [&](auto t) {
            return forward_of<decltype(t)>(gx, h0, weight_hh, b_hn, lengths, reverse, keep_tape);
        });
    }, nb::arg("gx"), nb::arg("h0"), nb::arg("weight_hh"), nb::arg("b_hn").none(),
       nb::arg("lengths").none(), nb::arg("reverse"), nb::arg("keep_tape"));

    m.def("backward", [](nb::handle dh, nb::handle dh_last, nb::handle h_prev, nb::handle r,
                         nb::handle z, nb::handle n, nb::handle gh_n, nb::handle weight_hh,
                         nb::handle lengths, bool reverse) {
        return by_type(common_type({dh, dh_last, h_prev, r, z, n, gh_n, weight_hh}), [&](auto t) {
            return backward_of<decltype(t)>(dh, dh_last, h_prev, r, z, n, gh_n, weight_hh, lengths,
                                            reverse);
        });
    }, nb::arg("dh"), nb::arg("dh_last").none(), nb::arg("h_prev"), nb::arg("r"), nb::arg("z"),
       nb::arg("n"), nb::arg("gh_n"), nb::arg("weight_hh"), nb::arg("lengths").none(),
       nb::arg("reverse"));

    m.def("matmul", [](nb::handle a, nb::handle b, nb::handle bias) {
        const int type = common_type({a, b, bias});
        if (type == -1 || PyArray_NDIM(as_array(a)) != 2 || PyArray_NDIM(as_array(b)) != 2)
            return not_implemented();
        return by_type(type, [&](auto t) { return matmul_of<decltype(t)>(a, b, bias); });
    }, nb::arg("a"), nb::arg("b"), nb::arg("bias").none());

    m.def("step", [](nb::handle x, nb::handle h, nb::handle weight_ih, nb::handle weight_hh,
                     nb::handle bias_ih, nb::handle bias_hh) {
        const int type = common_type({x, h, weight_ih, weight_hh, bias_ih, bias_hh});
        // A matrix or a masked array is for the portable path to refuse.
        const auto plain = [](nb::handle o) { return o.is_none() || PyArray_CheckExact(o.ptr()); };
        if (type == -1 || x.is_none() || !plain(x) || !plain(h) || !is_plain_step(x, h, weight_ih, weight_hh, bias_ih, bias_hh))
            return not_implemented();
        return by_type(type, [&](auto t) {
            return step_of<decltype(t)>(x, h, weight_ih, weight_hh, bias_ih, bias_hh);
        });
    }, nb::arg("x").none(), nb::arg("h").none(), nb::arg("weight_ih"), nb::arg("weight_hh"),
       nb::arg("bias_ih") = nb::none(), nb::arg("bias_hh") = nb::none());

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
    m.def("isa", [] { return std::string(instruction_set().name); });
    m.def("set_isa", [](const std::string& name) {
        return choose_instruction_set(name.c_str()) != nullptr;
    });
}
