// Instruction sets that both the processor and the operating system support.
#pragma once

namespace gru_xp {

bool has_avx2();    // AVX2 and fused multiply-adds
bool has_avx512();  // AVX-512 F, VL, BW and DQ, and all that has_avx2 requires

}  // namespace gru_xp
