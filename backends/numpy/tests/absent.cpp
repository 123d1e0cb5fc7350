// A placeholder for an instruction set whose kernels a test build leaves out. Tests never choose
// it.
#include "kernels.hpp"

#define GRU_XP_TEXT_(x) #x
#define GRU_XP_TEXT(x) GRU_XP_TEXT_(x)

const gru_xp::InstructionSet gru_xp::GRU_XP_ISA{GRU_XP_TEXT(GRU_XP_ISA), {}, {}};
