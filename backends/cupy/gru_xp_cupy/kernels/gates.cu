// The gates of one step, a thread for each unit of each row; the products are made elsewhere.
//
// The type of all arrays that are not said to be another is a macro of the compilation.
#include "units.cuh"

using namespace gru_xp;

using T = GRU_XP_NUMBER;

// gh (rows, 3 size): product of the state before step t and the recurrent weights.
extern "C" __global__ void forward_gates(const T* gx, const T* gh, const T* b_hn, const T* h,
                                         T* h_next, T* r, T* z, T* n, T* gh_n,
                                         const Index* lengths, Index t, Index rows, Index size) {
    const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * size) return;
    const Index row = i / size, unit = i % size;
    const T* of_row = gh + row * 3 * size + unit;
    const Forward<T> p{gx, b_hn, r, z, n, gh_n, lengths, rows, size};
    h_next[i] = narrow<T>(unit_forward(p, t, row, unit, widen(h[i]), widen(of_row[0]),
                                       widen(of_row[size]), widen(of_row[2 * size])));
}

// carried (rows, size), of the type that is computed with: before the first call the gradient of
// the last state; product (rows, size): of `dgh` of step `behind`, the one after t in the loop
// forward, and the weights. Where either step is not there, it is negative: behind before the
// first call, t after the last, which leaves the gradient of the initial state in dh0.
extern "C" __global__ void backward_gates(const T* dh, const T* h_prev, const T* r, const T* z,
                                          const T* n, const T* gh_n, T* dgx, T* dgh_n,
                                          const Index* lengths, Real<T>* carried,
                                          const T* product, T* dgh, T* dh0, Index behind, Index t,
                                          Index rows, Index size) {
    const Index i = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * size) return;
    const Index row = i / size, unit = i % size;
    Real<T> whole = carried[i];
    // In padding the product is of zeros, yet not zero where a weight is infinite.
    if (behind >= 0 && !is_padding(lengths, behind, row)) whole = whole + widen(product[i]);
    if (t < 0) {
        dh0[i] = narrow<T>(whole);
        return;
    }
    const Backward<T> p{dh, h_prev, r, z, n, gh_n, dgx, dgh_n, lengths, rows, size};
    carried[i] = unit_backward(p, t, row, unit, whole);
    const Index at = (t * rows + row) * size + unit;
    const T* of_step = dgx + (t * rows + row) * 3 * size + unit;
    T* of_row = dgh + row * 3 * size + unit;
    of_row[0] = of_step[0];
    of_row[size] = of_step[size];
    of_row[2 * size] = dgh_n[at];
}
