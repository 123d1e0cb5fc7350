// Stream as an object of Python's.
#pragma once

#include <nanobind/nanobind.h>

namespace gru_xp {

void add_stream(nanobind::module_& m);

}  // namespace gru_xp
