#include "drive.hpp"

#include <atomic>
#include <chrono>
#include <cstring>

#include "plan.hpp"
#include "processor.hpp"

namespace gru_xp {
namespace {

const InstructionSet* supported(const char* name) {
#ifdef GRU_XP_X86
    if (!std::strcmp(name, "avx512")) return has_avx512() ? &avx512 : nullptr;
    if (!std::strcmp(name, "avx2")) return has_avx2() ? &avx2 : nullptr;
#endif
    return std::strcmp(name, "plain") ? nullptr : &plain;
}

const InstructionSet* best() {
    for (const char* name : {"avx512", "avx2"})
        if (const InstructionSet* found = supported(name)) return found;
    return &plain;
}

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

const InstructionSet& instruction_set() {
    const InstructionSet* found = chosen.load(std::memory_order_relaxed);
    if (!found) chosen.store(found = best(), std::memory_order_relaxed);
    return *found;
}

const InstructionSet* choose_instruction_set(const char* name) {
    const InstructionSet* found = supported(name);
    if (found) chosen.store(found, std::memory_order_relaxed);
    return found;
}

template <class T>
void product(const Product<T>& p) {
    const auto& k = kernels<T>();
    const ptrdiff_t vectors = divided(p.columns, k.width);
    const double work = 2.0 * double(p.rows) * double(p.depth) * double(p.columns);
    const Wanted wanted(work, worth_sharing);
    Team team(wanted.threads());
    // If the columns are divided, no part of b is packed twice. But if a must be interleaved, each
    // share interleaves the rows that it reads, here all of them.
    const bool by_rows = p.rows >= 64 * team.size() && (p.a_step != 1 || vectors < 24 * team.size());
    must(team.run(team.size(), 1, 0, [&](int share, ptrdiff_t) {
        if (by_rows) return k.product(p, part(p.rows, share, team.size(), tile_rows), {0, vectors});
        return k.product(p, {0, p.rows}, part(vectors, share, team.size(), 3));
    }));
}

template <class T>
double multiply_add_rate(double seconds) {
    using clock = std::chrono::steady_clock;
    const auto& k = kernels<T>();
    const auto start = clock::now();
    double best = 0, passed = 0;
    ptrdiff_t rounds = 1000;
    while (passed < seconds) {
        const auto from = clock::now();
        const double done = k.multiply_adds(rounds);
        const std::chrono::duration<double> took = clock::now() - from;
        if (took.count() < 0.002)
            rounds *= 2;
        else
            best = std::max(best, done / took.count());
        passed = std::chrono::duration<double>(clock::now() - start).count();
    }
    return best;
}

template void product(const Product<float>&);
template void product(const Product<double>&);
template double multiply_add_rate<float>(double);
template double multiply_add_rate<double>(double);

}  // namespace gru_xp
