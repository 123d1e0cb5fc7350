// The Python class `Stream`.
#pragma once

#include <nanobind/nanobind.h>

namespace gru_xp {

// Adds the class and the function `stream`, which creates its objects, to the module.
void add_stream(nanobind::module_& m);

}  // namespace gru_xp
