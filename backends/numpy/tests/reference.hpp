// The gated recurrent unit and its derivative in scalar loops, one formula per line. Written from
// the equations, independently of the accelerator.
#pragma once

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gru_xp_tests {

template <class R>
struct Reference {
    ptrdiff_t T, N, H;
    bool reverse, reset_before;
    std::vector<R> gx, h0, W, b;   // (T, N, 3H), (N, H), (3H, H), (H,) or empty
    std::vector<int64_t> lengths;  // (N,) or empty

    std::vector<R> states, r, z, n, gh_n;  // (T + 1, N, H), then (T, N, H)
    std::vector<R> dgx, dgh_n, dh0;

    bool valid(ptrdiff_t t, ptrdiff_t i) const { return lengths.empty() || t < lengths[i]; }
    ptrdiff_t time(ptrdiff_t s) const { return reverse ? T - 1 - s : s; }
    ptrdiff_t before(ptrdiff_t t) const { return reverse ? t + 1 : t; }  // place in `states`
    ptrdiff_t after(ptrdiff_t t) const { return reverse ? t : t + 1; }
    ptrdiff_t at(ptrdiff_t t, ptrdiff_t i, ptrdiff_t j) const { return (t * N + i) * H + j; }

    void forward() {
        using std::exp;
        using std::tanh;
        for (auto* each : {&r, &z, &n, &gh_n}) each->assign(T * N * H, R(0));
        states.assign((T + 1) * N * H, R(0));
        for (ptrdiff_t k = 0; k < N * H; ++k) states[before(time(0)) * N * H + k] = h0[k];
        if (T == 0) states = h0;
        for (ptrdiff_t s = 0; s < T; ++s)
            for (ptrdiff_t i = 0; i < N; ++i) {
                if (reset_before) {
                    step_reset_before(time(s), i);
                    continue;
                }
                for (ptrdiff_t j = 0; j < H; ++j) {
                    const ptrdiff_t t = time(s), k = at(t, i, j);
                    const R* h = &states[at(before(t), i, 0)];
                    R& h_next = states[at(after(t), i, j)];
                    h_next = h[j];
                    if (!valid(t, i)) continue;
                    const R* x = &gx[(t * N + i) * 3 * H];
                    R gh[3] = {R(0), R(0), R(0)};
                    for (int gate = 0; gate < 3; ++gate)
                        for (ptrdiff_t l = 0; l < H; ++l)
                            gh[gate] += W[(gate * H + j) * H + l] * h[l];
                    gh_n[k] = gh[2] + (b.empty() ? R(0) : b[j]);
                    r[k] = R(1) / (R(1) + exp(-(x[j] + gh[0])));
                    z[k] = R(1) / (R(1) + exp(-(x[H + j] + gh[1])));
                    n[k] = tanh(x[2 * H + j] + r[k] * gh_n[k]);
                    h_next = (R(1) - z[k]) * n[k] + z[k] * h[j];
                }
            }
    }

    // n = tanh(gx_n + W_n (r * h)), so r of all units is needed first.
    void step_reset_before(ptrdiff_t t, ptrdiff_t i) {
        using std::exp;
        using std::tanh;
        const R *h = &states[at(before(t), i, 0)], *x = &gx[(t * N + i) * 3 * H];
        R* h_next = &states[at(after(t), i, 0)];
        for (ptrdiff_t j = 0; j < H; ++j) h_next[j] = h[j];
        if (!valid(t, i)) return;
        const auto product = [&](int gate, ptrdiff_t j, auto of) {
            R sum(0);
            for (ptrdiff_t l = 0; l < H; ++l) sum += W[(gate * H + j) * H + l] * of(l);
            return sum;
        };
        const auto state = [&](ptrdiff_t l) { return h[l]; };
        for (ptrdiff_t j = 0; j < H; ++j) {
            r[at(t, i, j)] = R(1) / (R(1) + exp(-(x[j] + product(0, j, state))));
            z[at(t, i, j)] = R(1) / (R(1) + exp(-(x[H + j] + product(1, j, state))));
        }
        for (ptrdiff_t j = 0; j < H; ++j) {
            const ptrdiff_t k = at(t, i, j);
            n[k] = tanh(x[2 * H + j] +
                        product(2, j, [&](ptrdiff_t l) { return r[at(t, i, l)] * h[l]; }));
            h_next[j] = (R(1) - z[k]) * n[k] + z[k] * h[j];
        }
    }

    // Computes the gradients, after `forward`, from those of every state, (T, N, H), and of the
    // last state, (N, H).
    void backward(const std::vector<R>& dh, const std::vector<R>& dh_last) {
        dgx.assign(T * N * 3 * H, R(0));
        dgh_n.assign(T * N * H, R(0));
        dh0 = dh_last;
        for (ptrdiff_t s = T - 1; s >= 0; --s)
            for (ptrdiff_t i = 0; i < N; ++i) {
                const ptrdiff_t t = time(s);
                std::vector<R> d(&dh0[i * H], &dh0[i * H] + H);
                for (ptrdiff_t j = 0; j < H; ++j) dh0[i * H + j] = d[j] += dh[at(t, i, j)];
                if (!valid(t, i)) continue;
                R* dx = &dgx[(t * N + i) * 3 * H];
                if (reset_before) {
                    back_reset_before(t, i, d, dx);
                    continue;
                }
                for (ptrdiff_t j = 0; j < H; ++j) {
                    const ptrdiff_t k = at(t, i, j);
                    const R h = states[at(before(t), i, j)];
                    const R dn = d[j] * (R(1) - z[k]), dz = d[j] * (h - n[k]);
                    const R da = dn * (R(1) - n[k] * n[k]);  // of tanh's argument
                    const R dr = da * gh_n[k];
                    dx[j] = dr * r[k] * (R(1) - r[k]);
                    dx[H + j] = dz * z[k] * (R(1) - z[k]);
                    dx[2 * H + j] = da;
                    dgh_n[k] = da * r[k];
                }
                for (ptrdiff_t l = 0; l < H; ++l) {
                    R sum = d[l] * z[at(t, i, l)];
                    for (ptrdiff_t j = 0; j < H; ++j)
                        sum += dx[j] * W[j * H + l] + dx[H + j] * W[(H + j) * H + l] +
                               dgh_n[at(t, i, j)] * W[(2 * H + j) * H + l];
                    dh0[i * H + l] = sum;
                }
            }
    }

    void back_reset_before(ptrdiff_t t, ptrdiff_t i, const std::vector<R>& d, R* dx) {
        const R* h = &states[at(before(t), i, 0)];
        for (ptrdiff_t j = 0; j < H; ++j) {
            const ptrdiff_t k = at(t, i, j);
            dx[H + j] = d[j] * (h[j] - n[k]) * z[k] * (R(1) - z[k]);
            dx[2 * H + j] = d[j] * (R(1) - z[k]) * (R(1) - n[k] * n[k]);
        }
        std::vector<R> of_reset_h(size_t(H), R(0));
        for (ptrdiff_t l = 0; l < H; ++l)
            for (ptrdiff_t j = 0; j < H; ++j)
                of_reset_h[size_t(l)] += dx[2 * H + j] * W[(2 * H + j) * H + l];
        for (ptrdiff_t l = 0; l < H; ++l) {
            const R gate = r[at(t, i, l)];
            dx[l] = of_reset_h[size_t(l)] * h[l] * gate * (R(1) - gate);
        }
        for (ptrdiff_t l = 0; l < H; ++l) {
            R sum = d[l] * z[at(t, i, l)] + of_reset_h[size_t(l)] * r[at(t, i, l)];
            for (ptrdiff_t j = 0; j < H; ++j)
                sum += dx[j] * W[j * H + l] + dx[H + j] * W[(H + j) * H + l];
            dh0[i * H + l] = sum;
        }
    }
};

}  // namespace gru_xp_tests
