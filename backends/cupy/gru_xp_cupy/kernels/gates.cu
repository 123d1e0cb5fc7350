// The gates of one step, with one thread for each unit of each row. The products are inputs.
//
// The macro GRU_XP_NUMBER is the type of the arrays, unless stated otherwise. The grid is (rows,
// blocks that cover the units).
#include "units.cuh"

using namespace gru_xp;

using T = GRU_XP_NUMBER;

// gh (rows, 3 size) is the product of the state before step t and the recurrent weights. states
// (steps + 1, rows, size) has the initial state first, or last in reverse.
extern "C" __global__ void forward_gates(const T* gx, const T* gh, const T* b_hn, T* states, T* r,
                                         T* z, T* n, T* gh_n, const Index* lengths, Index t,
                                         Index rows, Index size, Index reverse) {
    const Index row = blockIdx.x, unit = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    if (unit >= size) return;
    const T* of_row = gh + row * 3 * size + unit;
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, rows, size};
    const Input<T> x = load(p, t, row, unit);
    const bool padding = is_padding(lengths, t, row);
    const Gates<Real<T>> g = step(x, padding, widen(of_row[0]), widen(of_row[size]),
                                  widen(of_row[2 * size]) + bias(p, unit));
    const T* h = states + ((t + (reverse ? 1 : 0)) * rows + row) * size + unit;
    states[((t + (reverse ? 0 : 1)) * rows + row) * size + unit] =
        narrow<T>(next(g, padding, widen(*h)));
    store(p, t, row, unit, g);
}

// carried (rows, size) has the type of the arithmetic. Before the first call it is the gradient of
// the last state. product (rows, size) is the product of `dgh` of step `behind` and the weights;
// `behind` is the step after t in the forward loop, and negative in the first call. In the last
// call t is negative; that call stores the gradient of the initial state in dh0.
extern "C" __global__ void backward_gates(const T* dh, const T* h_prev, const T* r, const T* z,
                                          const T* n, const T* gh_n, T* dgx, T* dgh_n,
                                          const Index* lengths, Real<T>* carried,
                                          const T* product, T* dgh, T* dh0, Index t, Index rows,
                                          Index size, Index behind) {
    const Index row = blockIdx.x, unit = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    if (unit >= size) return;
    const Index i = row * size + unit;
    Real<T> whole = carried[i];
    // In padding the gradients are zero, but the product is not if a weight is infinite.
    if (behind >= 0 && !is_padding(lengths, behind, row)) whole = whole + widen(product[i]);
    if (t < 0) {
        dh0[i] = narrow<T>(whole);
        return;
    }
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, rows, size};
    const Kept<T> x = load(p, t, row, unit);
    const bool padding = is_padding(lengths, t, row);
    const Real<T> total = widen(x.dh) + whole;
    const GateGradients<Real<T>> d = step(x, padding, total);
    carried[i] = past(x, padding, total);
    store(p, t, row, unit, d);
    T* of_row = dgh + row * 3 * size + unit;
    of_row[0] = narrow<T>(d.r);
    of_row[size] = narrow<T>(d.z);
    of_row[2 * size] = narrow<T>(d.gh_n);
}
