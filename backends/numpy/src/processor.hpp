// What the processor can do, and the operating system lets it.
#pragma once

namespace gru_xp {

bool has_avx2();    // and fused multiply-adds
bool has_avx512();  // F, VL, BW and DQ, and what AVX2 asks for

}  // namespace gru_xp
