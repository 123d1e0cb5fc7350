// Access to NumPy arrays from C++.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL gru_xp_numpy_api
#ifndef GRU_XP_IMPORTS_NUMPY  // defined by the one source that imports NumPy's C API
#define NO_IMPORT_ARRAY
#endif
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "drive.hpp"

namespace gru_xp {

namespace nb = nanobind;

inline nb::object not_implemented() { return nb::borrow(Py_NotImplemented); }

inline PyArrayObject* as_array(nb::handle object) {
    return reinterpret_cast<PyArrayObject*>(object.ptr());
}

template <class T>
constexpr int type_number = sizeof(T) == sizeof(float) ? NPY_FLOAT32 : NPY_FLOAT64;

// Returns the type number that all arrays share, ignoring None: NPY_FLOAT32 or NPY_FLOAT64, in
// native byte order. Returns -1 if there is no such type, or if an object is not an array.
inline int common_type(std::initializer_list<nb::handle> objects) {
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

// Read access to an array's elements in row-major order and aligned. Uses the array's own memory if
// it has that layout, and a copy otherwise. None gives a null pointer.
template <class T>
class Input {
  public:
    explicit Input(nb::handle object) {
        if (object.is_none()) return;
        array_ = nb::steal(PyArray_FROM_OTF(object.ptr(), type_number<T>, NPY_ARRAY_CARRAY_RO));
        if (!array_.is_valid()) throw nb::python_error();
    }

    Input(nb::handle object, std::initializer_list<ptrdiff_t> shape) : Input(object) {
        if (object.is_none()) return;
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

// A new, uninitialized array.
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

// Several arrays in one allocation, which lives as long as any of them. A single large allocation
// can have huge pages. Nine cache lines of padding separate the arrays: without it, arrays whose
// size is a power of two would all map to the same cache sets.
template <class T>
class Outputs {
  public:
    Outputs(ptrdiff_t arrays, ptrdiff_t numbers_of_each)
        : spacing_((numbers_of_each * ptrdiff_t(sizeof(T)) + 63) / 64 * 64 + 9 * 64),
          memory_({ptrdiff_t(arrays * spacing_ / ptrdiff_t(sizeof(T)))}) {}

    // Returns array `number` as a view. The shape must have at most `numbers_of_each` elements.
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

inline ptrdiff_t extent(nb::handle array, int axis) {
    if (axis >= PyArray_NDIM(as_array(array)))
        throw nb::value_error("gru_xp_numpy: an array has too few axes");
    return PyArray_DIM(as_array(array), axis);
}

// Returns whether an array can be read in place: row-major, aligned, native byte order. True for
// None.
inline bool in_place(nb::handle object) {
    return object.is_none() || PyArray_ISCARRAY_RO(as_array(object));
}

template <class T>
const T* data_of(nb::handle object) {
    return object.is_none() ? nullptr : static_cast<const T*>(PyArray_DATA(as_array(object)));
}

inline bool shape_is(nb::handle object, std::initializer_list<ptrdiff_t> shape) {
    if (object.is_none()) return true;
    PyArrayObject* array = as_array(object);
    if (PyArray_NDIM(array) != int(shape.size())) return false;
    int axis = 0;
    for (ptrdiff_t length : shape)
        if (PyArray_DIM(array, axis++) != length) return false;
    return true;
}

// Calls f(T()) for the type with this type number; returns NotImplemented for any other type.
template <class F>
nb::object by_type(int type, F f) {
    if (type == NPY_FLOAT32) return f(float());
    if (type == NPY_FLOAT64) return f(double());
    return not_implemented();
}

// Returns whether the weights can be read in place and their shapes fit together. The biases are
// both arrays or both None.
inline bool are_plain_weights(nb::handle weight_ih, nb::handle weight_hh, nb::handle bias_ih,
                              nb::handle bias_hh) {
    for (nb::handle object : {weight_ih, weight_hh, bias_ih, bias_hh})
        if (!in_place(object)) return false;
    if (PyArray_NDIM(as_array(weight_ih)) != 2 || PyArray_NDIM(as_array(weight_hh)) != 2 ||
        bias_ih.is_none() != bias_hh.is_none())
        return false;
    const ptrdiff_t inputs = extent(weight_ih, 1), size = extent(weight_hh, 1);
    return shape_is(weight_ih, {3 * size, inputs}) && shape_is(weight_hh, {3 * size, size}) &&
           shape_is(bias_ih, {3 * size}) && shape_is(bias_hh, {3 * size});
}

template <class T>
Weights<T> weights_of(nb::handle weight_ih, nb::handle weight_hh, nb::handle bias_ih,
                      nb::handle bias_hh) {
    return {extent(weight_ih, 1), data_of<T>(weight_ih), data_of<T>(weight_hh), data_of<T>(bias_ih),
            data_of<T>(bias_hh)};
}

// `params` holds a tuple (weight_ih, weight_hh, bias_ih, bias_hh) for each layer and direction.
// Returns the type number of the first weight_ih, like `common_type`, or -1 if there is none.
// Whether the other arrays have this type is checked by the `weights_of` below.
inline int type_of(nb::tuple params) {
    if (params.size() == 0) return -1;
    const nb::handle first = params[0];
    if (!PyTuple_Check(first.ptr()) || PyTuple_Size(first.ptr()) != 4) return -1;
    return common_type({PyTuple_GetItem(first.ptr(), 0)});
}

// Collects the weights of all layers and directions, and sets `size` to the number of hidden units.
// Returns false if any array cannot be read in place, is not of type T or does not fit the others.
template <class T>
bool weights_of(nb::tuple params, ptrdiff_t directions, std::vector<Weights<T>>& weights,
                ptrdiff_t& size) {
    for (nb::handle each : params) {
        if (!PyTuple_Check(each.ptr()) || PyTuple_Size(each.ptr()) != 4) return false;
        const auto array = [&](int k) { return nb::handle(PyTuple_GetItem(each.ptr(), k)); };
        if (array(0).is_none() || array(1).is_none() ||
            common_type({array(0), array(1), array(2), array(3)}) != type_number<T> ||
            !are_plain_weights(array(0), array(1), array(2), array(3)))
            return false;
        if (weights.empty()) size = extent(array(1), 1);
        weights.push_back(weights_of<T>(array(0), array(1), array(2), array(3)));
        const bool is_first = ptrdiff_t(weights.size()) <= directions;
        const ptrdiff_t inputs = is_first ? weights[0].input_size : directions * size;
        if (extent(array(1), 1) != size || weights.back().input_size != inputs) return false;
    }
    return ptrdiff_t(weights.size()) % directions == 0;
}

}  // namespace gru_xp
