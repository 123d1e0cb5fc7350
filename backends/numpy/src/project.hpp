// The input projection with packed weights.
#pragma once

#include "forward.hpp"

namespace GRU_XP_ISA {

using gru_xp::Projection;

// Adds the bias to the sums of a `sweep` and stores them in gx.
template <class T>
struct ToGx {
    const Projection<T>& p;

    void fetch(index, index, index, int) const {}

    void finish(index row, index rows, index vector, int vectors, const T* sums) const {
        constexpr int w = width<T>;
        for (int v = 0; v < vectors; ++v) {
            const index gate = (vector + v) % 3, unit = (vector + v) / 3 * w, left = p.size - unit;
            const index at = gate * p.size + unit;
            for (index i = 0; i < rows; ++i) {
                Vec<T> sum = load(sums + (i * vectors + v) * w);
                if (p.bias) sum = sum + load_upto(p.bias + at, left);
                store_upto(p.gx + (row + i) * 3 * p.size + at, sum, left);
            }
        }
    }
};

template <class T>
inline bool project(const Projection<T>& p, Share own) {
    constexpr index at_once = 4 * most_rows;
    const Groups groups{3 * unit_vectors<T>(p.size), p.group};
    alignas(vector_bytes) T sums[kept_sums<T>(at_once)];
    for (index row = 0; row < p.rows; row += at_once) {
        const Range rows{row, p.rows - row < at_once ? p.rows : row + at_once};
        sweep(Operand<T>{p.x, p.depth, p.depth, nullptr, 0, 0}, Packed<T>{p.packed, p.depth, 0},
              groups, rows, own.columns(groups.vectors), false, sums, ToGx<T>{p});
    }
    return true;
}

}  // namespace GRU_XP_ISA
