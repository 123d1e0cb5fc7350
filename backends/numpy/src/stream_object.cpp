#include "stream_object.hpp"

#include <algorithm>
#include <atomic>
#include <variant>

#include "arrays.hpp"
#include "stream.hpp"

namespace gru_xp {
namespace {

// Work of a call, in multiply-adds, above which the GIL is released during the call.
constexpr double worth_unlocking = 5e4;

// Implements gru_xp.core.contract.NativeStream for one dtype.
template <class T>
class StreamOf {
  public:
    StreamOf(const std::vector<Weights<T>>& layers, ptrdiff_t size, bool reset_after,
             bool batch_first)
        : stream_(layers, size, reset_after), batch_first_(batch_first) {}

    nb::object state() {
        const Turn turn(*this);
        if (!known_) return nb::none();
        const npy_intp layers = stream_.layers(), size = stream_.size();
        const Output<T> out = batched_ ? Output<T>({layers, stream_.rows(), size})
                                       : Output<T>({layers, size});
        stream_.get_state(out.data());
        return out.object();
    }

    void set_state(nb::handle value) {
        const Turn turn(*this);
        if (value.is_none()) {
            known_ = false;
            return;
        }
        if (common_type({value}) != type_number<T>)
            throw nb::type_error("gru_xp_numpy: a stream's state has the weights' dtype");
        const bool batched = PyArray_NDIM(as_array(value)) == 3;
        const ptrdiff_t rows = batched ? extent(value, 1) : 1, size = stream_.size();
        const Input<T> state = batched ? Input<T>(value, {stream_.layers(), rows, size})
                                       : Input<T>(value, {stream_.layers(), size});
        stream_.set_state(state.data(), rows);
        batched_ = batched;
        known_ = true;
    }

    nb::object step(nb::handle x, nb::handle out) {
        if (!is_plain(x)) return not_implemented();
        const int axes = PyArray_NDIM(as_array(x));
        if (axes != 1 && axes != 2) return not_implemented();
        const ptrdiff_t rows = axes == 2 ? extent(x, 0) : 1;
        if (!takes(x, axes == 2, rows)) return not_implemented();
        npy_intp shape[2] = {rows, stream_.size()};
        nb::object result = nb::borrow(out);
        if (out.is_none()) {
            result = nb::steal(PyArray_SimpleNew(axes, shape + (2 - axes), type_number<T>));
            if (!result.is_valid()) throw nb::python_error();
        } else if (!is_plain(out) || !PyArray_ISWRITEABLE(as_array(out)) ||
                   !(axes == 2 ? shape_is(out, {rows, stream_.size()})
                               : shape_is(out, {stream_.size()}))) {
            return not_implemented();
        }
        T* y = static_cast<T*>(PyArray_DATA(as_array(result)));
        run(axes == 2, rows, 1, [&] { stream_.step(data_of<T>(x), y); });
        return result;
    }

    nb::object chunk(nb::handle x) {
        if (!is_plain(x)) return not_implemented();
        const int axes = PyArray_NDIM(as_array(x));
        // With batch_first, the axes of x are in another order.
        if ((axes != 2 && axes != 3) || (axes == 3 && batch_first_)) return not_implemented();
        const ptrdiff_t steps = extent(x, 0), rows = axes == 3 ? extent(x, 1) : 1;
        if (steps == 0 || !takes(x, axes == 3, rows)) return not_implemented();
        const Output<T> y = axes == 3 ? Output<T>({steps, rows, stream_.size()})
                                      : Output<T>({steps, stream_.size()});
        run(axes == 3, rows, steps, [&] { stream_.chunk(data_of<T>(x), steps, y.data()); });
        return y.object();
    }

  private:
    // Exclusive use of the stream for the lifetime of this object. The constructor throws if the
    // stream is already in use.
    class Turn {
      public:
        explicit Turn(StreamOf& of) : of_(of) {
            if (of_.taken_.exchange(true))
                PyErr_SetString(PyExc_RuntimeError,
                                "Stream: another thread is using this stream. Create a stream for "
                                "each thread"),
                    throw nb::python_error();
        }
        ~Turn() { of_.taken_ = false; }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        StreamOf& of_;
    };

    static bool is_plain(nb::handle x) {
        return PyArray_CheckExact(x.ptr()) && common_type({x}) == type_number<T> && in_place(x);
    }

    // Returns whether an input of `rows` rows fits the weights and the state.
    bool takes(nb::handle x, bool batched, ptrdiff_t rows) const {
        return rows > 0 && extent(x, PyArray_NDIM(as_array(x)) - 1) == stream_.input_size() &&
               (!known_ || (batched == batched_ && rows == stream_.rows()));
    }

    // Calls f, which computes `steps` steps. If no state is set, the state starts as zeros.
    template <class F>
    void run(bool batched, ptrdiff_t rows, ptrdiff_t steps, F f) {
        const Turn turn(*this);
        if (!known_) stream_.set_state(nullptr, rows);
        if (double(steps) * double(rows) * stream_.weights() > worth_unlocking) {
            nb::gil_scoped_release unlocked;
            f();
        } else {
            f();
        }
        batched_ = batched;
        known_ = true;
    }

    Stream<T> stream_;
    const bool batch_first_;
    bool batched_ = false, known_ = false;
    std::atomic<bool> taken_{false};
};

// The Python class `Stream`, for either dtype.
class NativeStream {
  public:
    template <class T, class... Arguments>
    explicit NativeStream(std::in_place_type_t<T> type, Arguments&&... arguments)
        : of_(type, std::forward<Arguments>(arguments)...) {}

    nb::object step(nb::handle x, nb::handle out) {
        return std::visit([&](auto& stream) { return stream.step(x, out); }, of_);
    }
    nb::object chunk(nb::handle x) {
        return std::visit([&](auto& stream) { return stream.chunk(x); }, of_);
    }
    nb::object state() {
        return std::visit([](auto& stream) { return stream.state(); }, of_);
    }
    void set_state(nb::handle value) {
        std::visit([&](auto& stream) { stream.set_state(value); }, of_);
    }

  private:
    std::variant<StreamOf<float>, StreamOf<double>> of_;
};

}  // namespace

void add_stream(nb::module_& m) {
    nb::class_<NativeStream>(m, "Stream")
        .def("step", &NativeStream::step, nb::arg("x").none(), nb::arg("out") = nb::none())
        .def("chunk", &NativeStream::chunk, nb::arg("x").none())
        .def_prop_rw("state", &NativeStream::state, &NativeStream::set_state,
                     nb::for_setter(nb::arg("value").none()));

    // params: one tuple (weight_ih, weight_hh, bias_ih, bias_hh) for each layer
    m.def("stream", [](nb::tuple params, bool reset_after, bool batch_first) {
        return by_type(type_of(params), [&](auto t) {
            using T = decltype(t);
            std::vector<Weights<T>> weights;
            ptrdiff_t size = 0;
            if (!weights_of<T>(params, 1, weights, size)) return not_implemented();
            return nb::cast(new NativeStream(std::in_place_type<StreamOf<T>>, weights, size,
                                             reset_after, batch_first),
                            nb::rv_policy::take_ownership);
        });
    }, nb::arg("params"), nb::arg("reset_after"), nb::arg("batch_first"));
}

}  // namespace gru_xp
