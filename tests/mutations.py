"""The mutation table: each fault below must be seen by the tests, on every backend.

A test-suite that passes proves something only if it fails where the code is wrong. Run

    python -m tests.mutations [--backend NAME ...] [--only TEXT] [--part K/N]

It changes one line of the package at a time, in memory, and runs the named tests; a run in which
no test fails is a mutation that survived, and the exit status is 1. Before that, the same tests
must pass on the code as it is. Backends that are not usable here are named as left out.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

CELL = ("tests/test_cell_values.py",)
INTERFACE = ("tests/test_cell_interface.py",)
STREAM = ("tests/test_stream.py",)
FILES = ("tests/test_persistence.py",)
LOOP = ("tests/test_recurrence.py",)
DERIVATIVES = ("tests/test_jax_derivatives.py",)
LAYOUTS = ("tests/test_layouts.py",)
IN_TORCH = ("tests/test_torch_accelerator.py",)
TORCH_MODULES = ("tests/test_interop_torch_modules.py",)
FRAMEWORKS = "tests/test_interop_frameworks.py::test_"
REFUSED = "tests/test_interop_frameworks_errors.py::test_"
LAYER = tuple(
    f"tests/test_layer_values.py::test_{name}"
    for name in (
        "one_direction_equals_the_scalar_reference",
        "outputs_equal_onnx_runtime",
        "each_ragged_row_agrees_with_its_sequence_run_alone",
        "gradients_equal_finite_differences",
    )
)

PORTABLE = frozenset({"portable"})
ACCELERATED = frozenset({"accelerated"})
ANY = PORTABLE | ACCELERATED


class Mutation(NamedTuple):
    """One fault: in `module`, `old` (which stands there once) becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    tests: Sequence[str]
    paths: frozenset[str] = ANY
    """Which of the two runs this code: "portable", "accelerated"."""
    unseen_on: frozenset[str] = frozenset()
    """Backends on which it makes no difference, for the reason in the comment beside it."""


EQUATIONS = "gru_xp.core.equations"
SEQUENCE = "gru_xp.core.sequence"
PORTABLE_LOOP = "gru_xp.core.portable"
STACK = "gru_xp.core.stack"
STEP = "gru_xp.core.step"
PARAMETERS = "gru_xp.core.parameters"
PRODUCTS = "gru_xp.core.products"
ACCELERATORS = "gru_xp.core.accelerators"
DOOR = "gru_xp.arrays.door"
SCAN = "gru_xp_jax.scan"
NATIVE = "gru_xp_numpy.functions"
TORCHS = "gru_xp_torch"
MODULES = "gru_xp.interop.torch_modules"
PERSISTENCE = "gru_xp.persistence"
CONVERSION = "gru_xp.interop.conversion"

MUTATIONS = [
    # The equations, their derivatives and the products are under the accelerators as well, or what
    # one with its own is compared with, so that the tests of the loop see them in both columns.
    Mutation(
        "gates r and z swapped",
        EQUATIONS,
        "return rz[..., :size], rz[..., size:]",
        "return rz[..., size:], rz[..., :size]",
        LOOP,
    ),
    Mutation(
        "z for 1 - z",
        EQUATIONS,
        "return (1 - z) * n + z * h",
        "return z * n + (1 - z) * h",
        LOOP,
    ),
    Mutation("no reset gate", EQUATIONS, "+ r * gh_n)", "+ gh_n)", LOOP),
    Mutation(
        "recurrent bias of n outside of the reset gate",
        EQUATIONS,
        "n = xp.tanh(gx[..., 2 * size :] + r * gh_n)",
        "n = xp.tanh(gx[..., 2 * size :] + r * gh[..., 2 * size :] + gh_n - gh[..., 2 * size :])",
        LOOP,
    ),
    Mutation("recurrent bias of n dropped", EQUATIONS, "if b_hn is not None:", "if False:", LOOP),
    Mutation(
        "sigmoid twice as steep", EQUATIONS, "xp.tanh(0.5 * x) + 0.5", "xp.tanh(x) + 0.5", LOOP
    ),
    Mutation(
        "candidate by sigmoid",
        EQUATIONS,
        "n = xp.tanh(gx[..., 2 * size :] + r",
        "n = 0.5 + 0.5 * xp.tanh(gx[..., 2 * size :] + r",
        LOOP,
    ),
    Mutation("dz of the wrong sign", EQUATIONS, "z=h - gates.n,", "z=gates.n - h,", LOOP),
    Mutation(
        "dn scaled by z instead of 1 - z",
        EQUATIONS,
        "n_slope = 1 - gates.z",
        "n_slope = gates.z",
        LOOP,
    ),
    Mutation(
        "tanh's slope without 1 + n",
        EQUATIONS,
        "return (1 - value) * (1 + value)",
        "return 1 - value",
        LOOP,
    ),
    Mutation(
        "sigmoid's slope without 1 - s",
        EQUATIONS,
        "return value * (1 - value)",
        "return value",
        LOOP,
    ),
    Mutation("dgh_n not scaled by r", EQUATIONS, "gh_n=gx_n * gates.r,", "gh_n=gx_n,", LOOP),
    Mutation(
        "dr without the recurrent product",
        EQUATIONS,
        "r=n_slope * _tanh_slope(gates.n) * gates.gh_n,",
        "r=n_slope * _tanh_slope(gates.n),",
        LOOP,
    ),
    Mutation(
        "recurrent biases of r and z dropped",
        SEQUENCE,
        "xp.concat([b_ih[:rz] + b_hh[:rz], b_ih[rz:]])",
        "xp.concat([b_ih[:rz], b_ih[rz:]])",
        LOOP,
    ),
    Mutation(
        "recurrent bias of n taken from r",
        SEQUENCE,
        "b_ih[rz:]]), b_hh[rz:]",
        "b_ih[rz:]]), b_hh[: rz // 2]",
        LOOP,
    ),
    Mutation(
        "gradient of b_hn not scaled by r",
        SEQUENCE,
        "sum_of_rows(dgh_n_rows, place=place)",
        "dbias_ih[rz:]",
        LOOP,
    ),
    Mutation(
        "bias gradients averaged over the batch",
        SEQUENCE,
        "dbias_ih = sum_of_rows(dgx_rows, place=place)",
        "dbias_ih = sum_of_rows(dgx_rows, place=place) / dgx_rows.shape[0]",
        LOOP,
    ),
    Mutation(
        "dW_nh not scaled by r",
        SEQUENCE,
        "matmul(dgh_n_rows.T, n_rows, place=place)",
        "matmul(dgx_rows[:, rz:].T, n_rows, place=place)",
        LOOP,
        unseen_on=frozenset({"numpy", "cupy"}),  # which write dgh_n over dgx's n instead
    ),
    Mutation(
        "dgh_n not written over dgx's n",
        SEQUENCE,
        "        dgx_rows[:, rz:] = dgh_n_rows\n",
        "",
        LOOP,
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # which do not
    ),
    Mutation(
        "one row's bias gradient written over",
        SEQUENCE,
        " and rows > 1:",
        ":",
        CELL,
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),
    ),
    Mutation(
        "dW_nh not scaled by r, of few rows",
        SEQUENCE,
        "xp.concat([dgx_rows[:, :rz], dgh_n_rows], axis=1)",
        "xp.concat([dgx_rows[:, :rz], dgx_rows[:, rz:]], axis=1)",
        CELL,
    ),
    # The step and its way back, which the accelerators share
    Mutation(
        "recurrent weights transposed gate by gate",
        PORTABLE_LOOP,
        "xp.matmul(h, weight_hh.T)",
        "xp.matmul(h, xp.concat([weight_hh[k * h.shape[-1] : (k + 1) * h.shape[-1], :]"
        " for k in range(3)], axis=1))",
        LOOP,
    ),
    Mutation(
        "gradient past the gates dropped",
        PORTABLE_LOOP,
        "return dgh, total * slopes.h + xp.matmul(dgh, weight_hh)",
        "return dgh, xp.matmul(dgh, weight_hh)",
        LOOP,
    ),
    Mutation(
        "gradient through the recurrent products dropped",
        PORTABLE_LOOP,
        "return dgh, total * slopes.h + xp.matmul(dgh, weight_hh)",
        "return dgh, total * slopes.h",
        LOOP,
    ),
    Mutation(
        "gradient not carried through padding",
        PORTABLE_LOOP,
        "carried = before if mask is None else where(mask[t, ...], before, total, xp=xp)",
        "carried = before",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "gradients of padding not zero",
        PORTABLE_LOOP,
        "dgh = zero_in_padding(dgh, mask, xp=xp)",
        "dgh = dgh + 0",
        LOOP,
    ),
    Mutation(
        "gradient of the candidate's input not zero in padding",
        PORTABLE_LOOP,
        "dgx_n = zero_in_padding(slopes.gx_n * total, mask, xp=xp)",
        "dgx_n = slopes.gx_n * total",
        LOOP,
    ),
    Mutation(
        "a length off by one",
        "gru_xp.core.tape",
        "(times[:, None] < lengths",
        "(times[:, None] <= lengths",
        LOOP,
    ),
    # The portable loop over time
    Mutation(
        "tape's states off by one step",
        PORTABLE_LOOP,
        "(h_all[:-1, ...], h_all[1:, ...]) if reverse else (h_all[1:, ...], h_all[:-1, ...])",
        "(h_all[:-1, ...], h_all[1:, ...]) if reverse else (h_all[1:, ...], h_all[1:, ...])",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "tape's states off by one step, in reverse",
        PORTABLE_LOOP,
        "(h_all[:-1, ...], h_all[1:, ...]) if reverse else",
        "(h_all[:-1, ...], h_all[:-1, ...]) if reverse else",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "reverse forgotten in the forward loop",
        PORTABLE_LOOP,
        "for t in times(steps, reverse):",
        "for t in times(steps, False):",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "backward loop in the direction of the forward loop",
        PORTABLE_LOOP,
        "for t in times(steps, not loop.reverse):",
        "for t in times(steps, loop.reverse):",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "gates of the tape left in loop order",
        PORTABLE_LOOP,
        "        gates.reverse()\n",
        "",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "gradients left in loop order",
        PORTABLE_LOOP,
        "        products.reverse()\n",
        "",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "state not carried through padding",
        PORTABLE_LOOP,
        "else where(mask[t, ...], h_next, h, xp=xp))",
        "else h_next)",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "padding not masked before the product",
        PORTABLE_LOOP,
        "gx = zero_in_padding(gx, mask, xp=xp)",
        "gx = gx + 0",
        LOOP,
        PORTABLE,
    ),
    Mutation(
        "gradient of the last state forgotten",
        PORTABLE_LOOP,
        "    carried = dh_last\n",
        "    carried = None\n",
        LOOP,
        PORTABLE,
    ),
    # The reset gate before the product
    Mutation(
        "reset gate before the product forgotten",
        EQUATIONS,
        "xp.matmul(r * h, weight_hh",
        "xp.matmul(h, weight_hh",
        LAYER,
        PORTABLE,
    ),
    Mutation(
        "reset gate after the product where it should act before",
        EQUATIONS,
        "xp.matmul(r * h, weight_hh[2 * size :, :].T)",
        "r * xp.matmul(h, weight_hh[2 * size :, :].T)",
        LAYER,
        PORTABLE,
    ),
    Mutation(
        "gradient through the scaled state dropped",
        PORTABLE_LOOP,
        "dh = total * slopes.h + drh * slopes.r +",
        "dh = total * slopes.h +",
        LAYER,
        PORTABLE,
    ),
    Mutation(
        "dr without the state that it scales",
        EQUATIONS,
        "rh_r=h * _sigmoid_slope(gates.r),",
        "rh_r=_sigmoid_slope(gates.r),",
        LAYER,
        PORTABLE,
    ),
    Mutation(
        "states of padding, scaled, seen by the weights' gradients",
        SEQUENCE,
        "zero_in_padding(tape.r * tape.h_prev, valid, xp=xp)",
        "tape.r * tape.h_prev",
        ("tests/test_layer_values.py",),
        PORTABLE,  # accelerators leave numbers in a tape's padding
    ),
    Mutation(
        "dW_nh from the state that is not scaled",
        SEQUENCE,
        "zero_in_padding(tape.r * tape.h_prev, valid, xp=xp)",
        "zero_in_padding(tape.h_prev, valid, xp=xp)",
        LAYER,
    ),
    Mutation(
        "gate gradient of r scaled by r*h in place of h",
        EQUATIONS,
        "r=drh * h, z=dh * (h - gates.n)",
        "r=drh * gates.r * h, z=dh * (h - gates.n)",
        CELL,
    ),
    Mutation(
        "gate gradient of r past the recurrent product",
        EQUATIONS,
        "drh = xp.matmul(dh * slopes_reset_before(h, gates).gx_n, weight_hn)",
        "drh = dh * slopes_reset_before(h, gates).gx_n",
        CELL,
    ),
    Mutation(
        "gate gradient of r through the transposed weight",
        EQUATIONS,
        "slopes_reset_before(h, gates).gx_n, weight_hn)",
        "slopes_reset_before(h, gates).gx_n, weight_hn.T)",
        CELL,
    ),
    Mutation(
        "gate gradient of r without the slope of tanh",
        EQUATIONS,
        "dh * slopes_reset_before(h, gates).gx_n, weight_hn",
        "dh * (1 - gates.z), weight_hn",
        CELL,
    ),
    Mutation(
        "gate gradient of z of the wrong sign",
        EQUATIONS,
        "z=dh * (h - gates.n), n=dh",
        "z=dh * (gates.n - h), n=dh",
        CELL,
    ),
    Mutation(
        "gate gradient of n scaled by z instead of 1 - z",
        EQUATIONS,
        "n=dh * (1 - gates.z))",
        "n=dh * gates.z)",
        CELL,
    ),
    Mutation(
        "gate gradient of r through another gate's weight",
        "gru_xp.cell",
        "transfer.private(self.Wnh, place)",
        "transfer.private(self.Wzh, place)",
        CELL,
    ),
    Mutation(
        "gate gradient of r through a weight that has changed since",
        "gru_xp.cell",
        "transfer.private(self.Wnh, place)",
        "self.Wnh",
        INTERFACE,
        unseen_on=frozenset({"jax"}),  # its arrays do not change
    ),
    Mutation(
        "a cell's reset gate always after the product",
        STEP,
        "return PLAIN if reset_after else RESET_BEFORE",
        "return PLAIN",
        CELL,
    ),
    Mutation(
        "a tape of the other form taken",
        "gru_xp.core.checks",
        "if given[name] != expected:",
        "if False:",
        (
            "tests/test_functional.py::test_a_tape_of_the_other_form_is_refused",
            "tests/test_functional.py::TestLayers::test_a_tape_of_the_other_form_is_refused",
        ),
    ),
    Mutation(
        "an accelerator's step not told where the reset gate acts",
        "gru_xp.cell",
        "quick(x, h_prev_t, *self._params, self.reset_after)",
        "quick(x, h_prev_t, *self._params, True)",
        ("tests/test_accelerators.py",),
    ),
    # Layers and directions
    Mutation(
        "a direction forgotten",
        STACK,
        "replace(loop, reverse=True)) if",
        "loop) if",
        LAYER,
    ),
    Mutation(
        "a reverse direction alone runs forward",
        "gru_xp.layer",
        "Loop(lengths=lengths, reverse=self.reverse, ",
        "Loop(lengths=lengths, ",
        LAYER,
    ),
    Mutation(
        "a reverse direction alone runs forward in a whole call",
        NATIVE,
        "if loop.lengths is not None or loop.reverse:",
        "if loop.lengths is not None:",
        LAYER,
        ACCELERATED,
    ),
    Mutation(
        "a reverse direction alone runs forward in the pure form",
        "gru_xp.functional",
        "Loop(lengths=lengths, reverse=reverse, ",
        "Loop(lengths=lengths, ",
        ("tests/test_functional.py::TestLayers",),
    ),
    Mutation(
        "reverse passed over beside bidirectional",
        PARAMETERS,
        "    if reverse and bidirectional:\n",
        "    if False:\n",
        ("tests/test_functional.py::TestLayers",),
    ),
    Mutation(
        "the directions' outputs swapped",
        STACK,
        "y = xp.concat(outputs, axis=-1)",
        "y = xp.concat(outputs[::-1], axis=-1)",
        LAYER,
    ),
    Mutation(
        "a layer's h0 swapped with another's",
        STACK,
        "                states[k, ...],\n                each,",
        "                states[len(params) - 1 - k, ...],\n                each,",
        LAYER,
    ),
    Mutation(
        "a layer's dh_n swapped with another's",
        STACK,
        "None if dlast is None else dlast[k, ...],",
        "None if dlast is None else dlast[len(params) - 1 - k, ...],",
        LAYER,
    ),
    Mutation(
        "h_n of a reverse direction from the wrong end",
        STACK,
        "end = 0 if each.reverse else -1",
        "end = -1",
        LAYER,
    ),
    Mutation(
        "outputs of padding not zero",
        STACK,
        "outputs.append(zero_in_padding(h, valid, xp=xp))",
        "outputs.append(h)",
        LAYER,
    ),
    Mutation(
        "padding of the input not masked",
        STACK,
        "y = zero_in_padding(time_first(cast(x, dtype, xp=xp), form, xp=xp), valid, xp=xp)",
        "y = time_first(cast(x, dtype, xp=xp), form, xp=xp)",
        LAYER,
    ),
    Mutation(
        "padding of dy not masked",
        STACK,
        "dout = zero_in_padding(time_first(cast(dy, dtype, xp=xp), form, xp=xp), valid, xp=xp)",
        "dout = time_first(cast(dy, dtype, xp=xp), form, xp=xp)",
        LAYER,
    ),
    Mutation(
        "dx in padding left to a product",
        STACK,
        "            dout = zero_in_padding(dout, valid, xp=xp)  #",
        "            dout = dout + 0  #",
        ("tests/test_layer_values.py",),
    ),
    Mutation(
        "states of padding seen by the weights' gradients",
        SEQUENCE,
        "_rows(zero_in_padding(tape.h_prev, valid, xp=xp), xp=xp)",
        "_rows(tape.h_prev + 0, xp=xp)",
        ("tests/test_layer_values.py",),
    ),
    Mutation(
        "scan: gradient not carried through padding",
        SCAN,
        "before = before if valid is None else jnp.where(valid, before, total)",
        "before = before + 0",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "dropout forgotten on the way back",
        STACK,
        "zero_in_padding(dout * cast(tape.masks[layer], dtype, xp=xp), valid, xp=xp)",
        "dout + 0",
        LAYER,
    ),
    Mutation(
        "dropout on the last layer too",
        STACK,
        "if masks and layer + 1 < layers:",
        "if masks and (layer + 1 < layers or (masks := masks * 2)):",
        LAYER,
    ),
    Mutation(
        "dropout not scaled",
        "gru_xp.layer",
        "(self._rng.random(shape) < keep) / keep,",
        "(self._rng.random(shape) < keep) / 1,",
        ("tests/test_layer_interface.py",),
    ),
    Mutation(
        "dropout in eval",
        "gru_xp.layer",
        "drawing = training and self.dropout > 0",
        "drawing = self.dropout > 0",
        ("tests/test_layer_interface.py",),
    ),
    Mutation(
        "a stream's weights are the GRU's own",
        "gru_xp.stream",
        "transfer.private(transfer.detached(array), place)",
        "transfer.detached(array)",
        STREAM,
        unseen_on=frozenset({"jax"}),  # its arrays do not change
    ),
    Mutation(
        "a stream's state is read by itself",
        "gru_xp.stream",
        "return None if state is None else transfer.private(state, self._place)",
        "return state",
        STREAM,
        unseen_on=frozenset({"jax"}),  # its arrays do not change
    ),
    Mutation(
        "an accelerator's stream gets a wider state",
        "gru_xp.stream",
        "native is not None and (state is None or state.dtype == self._place.dtype)",
        "native is not None",
        STREAM,
    ),
    Mutation(
        "the portable path's state does not go back to the accelerator's stream",
        "gru_xp.stream",
        "            native.state = state",
        "            pass",
        STREAM,
    ),
    Mutation(
        "a stream of a reverse direction alone",
        "gru_xp.stream",
        "if form.bidirectional or loop.reverse:",
        "if form.bidirectional:",
        STREAM,
    ),
    # JAX's accelerator
    Mutation(
        "scan: reverse forgotten",
        SCAN,
        "h0, inputs, reverse=loop.reverse)",
        "h0, inputs, reverse=False)",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: backward in the direction of the forward scan",
        SCAN,
        "reverse=not loop.reverse",
        "reverse=loop.reverse",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: state not carried through padding",
        SCAN,
        "h_next = jnp.where(valid, h_next, h)",
        "h_next = h_next + 0",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: tape's states off by one step",
        SCAN,
        "(h, *gates) if keep_tape",
        "(h_next, *gates) if keep_tape",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: padding not masked before the product",
        SCAN,
        "inputs = (zero_in_padding(gx, mask, xp=jnp), mask)",
        "inputs = (gx, mask)",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: the gradient before the steps in place of their totals",
        SCAN,
        "slopes.gates * total[:, :, None, :]",
        "slopes.gates * dh[:, :, None, :]",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "scan: zeros on the way back that belong to no device of a mesh",
        SCAN,
        "carried = jnp.zeros_like(dh[0]) if",
        "carried = jnp.zeros(dh.shape[1:], dh.dtype) if",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: JAX's own derivative in place of ours",
        SCAN,
        "_forward = jax.jit(_scan, ",
        "_forward = jax.jit(_scan.fun, ",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: derivative of b_hn given to the reset gate",
        SCAN,
        "jnp.pad(b_hn, (rz, 0))",
        "jnp.pad(b_hn, (0, rz))",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: weight_hn's derivative without the reset gate that acts before",
        SCAN,
        "as_rows(tape.r * tape.h_prev)",
        "as_rows(tape.h_prev)",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: initial states that no step starts from in the derivative's products",
        SCAN,
        "tape, rz = _finite(tape, loop), 2 * size",
        "rz = 2 * size",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: initial states that no step starts from in the way back",
        SCAN,
        ", tape = valid_steps(loop.lengths, steps, xp=jnp), _finite(tape, loop)",
        " = valid_steps(loop.lengths, steps, xp=jnp)",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: arrays that vary over different axes of a shard_map",
        SCAN,
        "if of_all - own else each",
        "if False else each",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: derivative of gates in the wrong direction",
        SCAN,
        "[h[1:], h0[None]] if loop.reverse",
        "[h[1:], h0[None]] if not loop.reverse",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: padding in the derivative of gates",
        SCAN,
        "gx, h = zero_in_padding(gx, mask, xp=jnp), zero_in_padding(h_prev, mask, xp=jnp)",
        "gx, h = gx, h_prev",
        DERIVATIVES,
        ACCELERATED,
    ),
    Mutation(
        "scan: no derivative of gates",
        SCAN,
        "return (h, tape), (of_h, of_tape)",
        "return (h, tape), (of_h, jax.tree.map(jnp.zeros_like, of_tape))",
        DERIVATIVES,
        ACCELERATED,
    ),
    # NumPy's accelerator; its C++ has a table of its own
    Mutation(
        "native: lengths forgotten on the way back",
        NATIVE,
        "*tape, weight_hh, loop.lengths, loop.reverse, loop.reset_after\n",
        "*tape, weight_hh, None, loop.reverse, loop.reset_after\n",
        LOOP,
        ACCELERATED,
    ),
    Mutation(
        "a GRU in reverse written for other frameworks as a forward one",
        "gru_xp.interop.models",
        "isinstance(model, GRU) and model.reverse:",
        "False:",
        (f"{REFUSED}objects_of_other_frameworks_are_refused",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # whatever computes
    ),
    # Torch's accelerator, and the modules for its scripts
    Mutation(
        "torch: gradient of the weights from the states after the step",
        f"{TORCHS}.autograd",
        "    h_prev = tape.h_prev\n    of_n",
        "    h_prev = torch.roll(tape.h_prev, -1, 0)\n    of_n",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "ones in place of no dy",
        STACK,
        "xp.zeros_like(tape.tapes[0].r)",
        "xp.ones_like(tape.tapes[0].r)",
        ("tests/test_layer_interface.py",),
    ),
    Mutation(
        "torch: states of padding seen by the weights' gradients",
        f"{TORCHS}.autograd",
        "h_prev, of_n = h_prev.where(valid, 0), of_n.where(valid, 0)",
        "pass",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: states of padding seen by the tape's gradients",
        f"{TORCHS}.autograd",
        "h_prev, r, z, n, gh_n = whole_tape(*(each.where(valid, 0) for each in kept(tape)))",
        "pass",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the tape's gradient shifted the other way",
        f"{TORCHS}.autograd",
        "later, first = [dh_prev[1:], none], dh_prev[0]",
        "later, first = [none, dh_prev[:-1]], dh_prev[0]",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the tape's gradient of r forgotten",
        f"{TORCHS}.autograd",
        "(dtape.r + dr) * r",
        "dr * r",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the tape's gradient of gh_n forgotten",
        f"{TORCHS}.autograd",
        "dgx_n * r + dtape.gh_n",
        "dgx_n * r",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the gradient of the initial state through the tape forgotten",
        f"{TORCHS}.autograd",
        "of_n + dgh_n, dh0 + first",
        "of_n + dgh_n, dh0",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: a second derivative in silence",
        f"{TORCHS}.autograd",
        "    if not torch.is_grad_enabled():",
        "    if True:",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the examples of vmap as rows in the wrong order",
        f"{TORCHS}.operators",
        "return tensor.movedim(axis, rows_at).flatten(rows_at, rows_at + 1)",
        "return tensor.movedim(axis, rows_at + 1).flatten(rows_at, rows_at + 1)",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: vmap takes the first example's weights for all",
        f"{TORCHS}.operators",
        "return value if axis is None else value.select(axis, number)",
        "return value if axis is None else value.select(axis, 0)",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: forward mode in silence",
        f"{TORCHS}.state",
        "or forward_ad._current_level >= 0",
        "or False",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: products of training in another order",
        f"{TORCHS}.products",
        "    if is_torchs or",
        "    if True or",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: gradient of a product's right side not turned",
        f"{TORCHS}.products",
        "matmul(a.T, gradient)\n",
        "matmul(gradient.T, a)\n",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: the engine's own number of threads",
        f"{TORCHS}.cpu",
        "        keep_tape,\n        torch.get_num_threads(),",
        "        keep_tape,\n        0,",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch module: dropout's numbers in another order",
        MODULES,
        "            shape[:2] = shape[1::-1]",
        "            pass",
        TORCH_MODULES,
        ACCELERATED,
        unseen_on=frozenset({"numpy", "array_api_strict", "jax"}),  # torch's modules
    ),
    Mutation(
        "torch module: rows of a packed sequence not put back",
        MODULES,
        "self.permute_hidden(h_n, unsorted_indices)",
        "h_n",
        TORCH_MODULES,
        ACCELERATED,
        unseen_on=frozenset({"numpy", "array_api_strict", "jax"}),  # torch's modules
    ),
    Mutation(
        "torch module: few steps by the loop",
        MODULES,
        "_FEW = 5",
        "_FEW = 4",
        TORCH_MODULES,
        ACCELERATED,
        unseen_on=frozenset({"numpy", "array_api_strict", "jax"}),  # torch's modules
    ),
    Mutation(
        "torch: autocast ignored",
        f"{TORCHS}.state",
        "return not torch.is_autocast_enabled(device.type)",
        "return True",
        TORCH_MODULES,
        ACCELERATED,
    ),
    Mutation(
        "torch: what traces or watches a call ignored",
        f"{TORCHS}.state",
        "or is_watched():",
        "or False:",
        TORCH_MODULES,
        ACCELERATED,
    ),
    Mutation(
        "torch: h_prev cut off from a second derivative",
        f"{TORCHS}.autograd",
        "ctx.mark_non_differentiable(*tape[1:])",
        "ctx.mark_non_differentiable(*tape)",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: states in the memory of what is kept",
        f"{TORCHS}.autograd",
        "return h.clone(), *kept(tape)",
        "return h, *kept(tape)",
        IN_TORCH,
        ACCELERATED,
    ),
    Mutation(
        "torch: a whole call in reverse run forward",
        f"{TORCHS}.functions",
        "loop.lengths is None and not loop.reverse",
        "loop.lengths is None",
        ("tests/test_layer_values.py",),
        ACCELERATED,
    ),
    # How accelerators are asked
    Mutation(
        "bias of a product dropped where there is no accelerator for it",
        PRODUCTS,
        "return product if bias is None else product + bias",
        "return product",
        LOOP,
        PORTABLE,  # torch's accelerator and NumPy's have a product for all that comes here
    ),
    Mutation(
        "accelerators asked though they are off",
        ACCELERATORS,
        "if module is None or function is None or not are_on():",
        "if module is None or function is None:",
        ("tests/test_accelerators.py",),
    ),
    Mutation(
        "an accelerator asked whatever the loop's options",
        ACCELERATORS,
        "if loop is not PLAIN and not",
        "if False and not",
        ("tests/test_accelerators.py",),
    ),
    Mutation(
        "an option that is an array not counted",
        "gru_xp.core.loop",
        "value is not default and (default is None or bool(value != default))",
        "default is not None and bool(value != default)",
        ("tests/test_accelerators.py",),
    ),
    # The door
    Mutation(
        "a module's place left behind where its weights move",
        "gru_xp.module",
        "_place = Place.of(next(iter(weights.values())))\n",
        "_place = vars(self).get('_place') or Place.of(next(iter(weights.values())))\n",
        INTERFACE,
    ),
    Mutation(
        "arrays of another device let in",
        DOOR,
        "return place.device is None or there is None or bool(place.device == there)",
        "return True",
        ("tests/test_cell_errors.py",),
        unseen_on=frozenset({"numpy", "torch"}),  # which have one device here
    ),
    Mutation(
        "what a wider float computes in not promoted",
        DOOR,
        "        return xp.result_type(dtype, other)",
        "        return dtype",
        ("tests/test_cell_dtypes.py",),
    ),
    Mutation(
        "the sum of one row taken for that of all",
        PRODUCTS,
        "if rows.shape[0] == 1:",
        "if rows.shape[0] >= 1:",
        LOOP,
    ),
    # The cell
    Mutation(
        "no state given starts from ones",
        STEP,
        "h = xp.zeros((*x.shape",
        "h = xp.ones((*x.shape",
        CELL,
    ),
    Mutation(
        "gradients left in the computing dtype",
        "gru_xp.arrays.dtypes",
        "return cast(gradient, value.dtype, xp=xp)",
        "return gradient",
        ("tests/test_cell_dtypes.py",),
    ),
    Mutation(
        "names of gates in another order",
        PARAMETERS,
        "return packed[index * size : (index + 1) * size, ...]",
        "return packed[(2 - index) * size : (3 - index) * size, ...]",
        CELL,
    ),
    Mutation(
        "assignment to the wrong gate",
        PARAMETERS,
        "before, after = index * size, (index + 1) * size",
        "before, after = (2 - index) * size, (3 - index) * size",
        INTERFACE,
    ),
    Mutation(
        "initial weights bounded by 1 / H",
        PARAMETERS,
        "bound = 1 / math.sqrt(hidden_size)",
        "bound = 1 / hidden_size",
        CELL,
    ),
    Mutation(
        "gradients accumulated",
        "gru_xp.cell",
        "self._gradients = gradients.named()",
        "old = self._gradients or {}; "
        "self._gradients = {k: g + old.get(k, 0 * g) for k, g in gradients.named().items()}",
        INTERFACE,
    ),
    Mutation(
        "tape kept in eval",
        "gru_xp.cell",
        "keep_tape=training,",
        "keep_tape=True,",
        INTERFACE,
    ),
    Mutation(
        "arguments kept as aliases",
        "gru_xp.cell",
        "copies=training,",
        "copies=False,",
        INTERFACE,
        unseen_on=frozenset({"jax"}),  # its arrays do not change
    ),
    Mutation(
        "a weight replaced where it should change in place",
        PARAMETERS,
        "            weights[name][...] = value\n",
        "            result[name] = value\n",
        INTERFACE,
        unseen_on=frozenset({"jax"}),  # its arrays do not change
    ),
    # What a run leaves on the disk
    Mutation(
        "numbers that are not finite saved",
        "gru_xp.training.checkpoint",
        "if lost := _not_finite(checkpoint.arrays):",
        'if lost := "":',
        ("tests/test_training_checkpoint.py",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # of files, whatever computes
    ),
    Mutation(
        "control characters from a file in a message",
        "gru_xp.messages",
        "each if each.isprintable() else repr(each)[1:-1]",
        "each",
        ("tests/test_training_checkpoint.py",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # of files, whatever computes
    ),
    Mutation(
        "a checkpoint's tensors not held against its configuration",
        "gru_xp.training.checkpoint",
        "            _check_tensors(file, config, characters)\n",
        "",
        ("tests/test_training_checkpoint.py",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # of files, whatever computes
    ),
    Mutation(
        "a link in the temporary file's place followed",
        "gru_xp.files",
        '            part.unlink()\n        try:\n            with open(part, "xb")',
        '            pass\n        try:\n            with open(part, "wb")',
        ("tests/test_training_checkpoint.py",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # of files, whatever computes
    ),
    Mutation(
        "a folder's lock not released",
        "gru_xp.files",
        "        lock.release()\n",
        "",
        ("tests/test_training_checkpoint.py::test_a_lock_is_released_at_the_end_of_the_block",),
    ),
    # Models in files
    Mutation(
        "a description not held against the weights",
        PERSISTENCE,
        "    if fields != {",
        "    if False and fields != {",
        FILES,
    ),
    Mutation(
        "an option of any type taken",
        PERSISTENCE,
        "        if type(value) is not wanted[name]:\n",
        "        if False:\n",
        FILES,
    ),
    Mutation(
        "reverse not saved",
        PERSISTENCE,
        '    "reverse": bool,\n',
        "",
        FILES,
    ),
    Mutation(
        "reverse not held against the weights",
        PERSISTENCE,
        '    if options.get("reverse") and ',
        "    if False and ",
        FILES,
    ),
    Mutation(
        "shapes not held against one another",
        "gru_xp.core.described",
        "        if shapes.get(name) != expected.get(name):\n",
        "        if shapes.get(name) is None:\n",
        FILES,
    ),
    Mutation(
        "later layers of the input's width",
        "gru_xp.core.described",
        "        is_first = number < len(directions)\n",
        "        is_first = number <= len(directions)\n",
        FILES,
    ),
    Mutation(
        "a header believed",
        "gru_xp.formats",
        "if dtype.hasobject or file.tell() + count * dtype.itemsize != entry.file_size:",
        "if False:",
        FILES,
    ),
    Mutation(
        "a compressed archive unpacked",
        "gru_xp.formats",
        "each.compress_type != zipfile.ZIP_STORED",
        "each.compress_type < 0",
        FILES,
    ),
    Mutation(
        "the saved dtype forgotten",
        PERSISTENCE,
        "        dtype = _usable(saved, backend, device)\n",
        "        dtype = _usable('float32', backend, device)\n",
        FILES,
    ),
    Mutation(
        "a prefix passed over",
        PERSISTENCE,
        'file.read((prefix or "") + name)',
        "file.read(name)",
        FILES,
    ),
    Mutation(
        "a model written in place",
        PERSISTENCE,
        "    write_whole(path, to_bytes(",
        "    path.write_bytes(to_bytes(",
        FILES,
    ),
    Mutation(
        "a torch module's options passed over",
        "gru_xp.interop.torch",
        '            options = {"batch_first": module.batch_first, ',
        '            options = {"batch_first": False, ',
        ("tests/test_interop_torch.py",),
    ),
    Mutation(
        "the other form given to torch",
        "gru_xp.interop.torch",
        "    if not model.reset_after:\n",
        "    if False:\n",
        ("tests/test_interop_torch.py",),
    ),
    Mutation(
        "a reverse direction alone given to torch",
        "gru_xp.interop.torch",
        "    if isinstance(model, layer.GRU) and model.reverse:\n",
        "    if False:\n",
        ("tests/test_interop_torch.py",),
    ),
    Mutation(
        "ONNX's reverse direction read as forward",
        "gru_xp.interop.onnx",
        '"reverse": direction == "reverse"',
        '"reverse": False',
        ("tests/test_interop_onnx.py",),
    ),
    Mutation(
        "a reverse direction alone written as forward",
        "gru_xp.interop.onnx",
        '"reverse" if gru.reverse else "forward"',
        '"forward"',
        ("tests/test_interop_onnx.py",),
    ),
    Mutation(
        "an initial state computed twice",
        "gru_xp.interop.onnx",
        'name != "h0" or value.any()',
        'name != "h0" or constants.value(given).any()',
        ("tests/test_interop_onnx.py",),
    ),
    Mutation(
        "ONNX's form always that of torch",
        "gru_xp.interop.onnx",
        '_flag(attributes, "linear_before_reset")',
        "True",
        ("tests/test_interop_onnx.py",),
    ),
    Mutation(
        "ONNX's directions from the first alone",
        "gru_xp.interop.onnx",
        "array[number : number + 1]",
        "array[:1]",
        ("tests/test_interop_onnx.py",),
    ),
    Mutation(
        "directions that are not beside each other",
        "gru_xp.interop.onnx",
        "perm=[0, 2, 1, 3]",
        "perm=[0, 1, 2, 3]",
        ("tests/test_interop_onnx.py",),
    ),
    # One-hot input, and large vocabularies
    Mutation(
        "a class's sum not handed over to the next block",
        "gru_xp.core.one_hot",
        "sums = sums + xp.where(goes_on,",
        "sums = sums + 0 * xp.where(goes_on,",
        ("tests/test_one_hot.py",),
    ),
    Mutation(
        "a class's sum handed over by the block before alone",
        "gru_xp.core.one_hot",
        "(place_of[:, None] > place_of[None, :])",
        "(place_of[:, None] == place_of[None, :] + 1)",
        ("tests/test_one_hot.py",),
    ),
    Mutation(
        "classes without a row given that of the next one",
        "gru_xp.core.one_hot",
        "which = xp.where(found, last_of, xp.full_like(last_of, blocks * _BLOCK))",
        "which = last_of",
        ("tests/test_one_hot.py",),
    ),
    Mutation(
        "sums of blocks in 16 bits",
        "gru_xp.core.one_hot",
        "sums = at_least_float32(xp.matmul(rows, equal), xp=xp)",
        "sums = xp.matmul(rows, equal)",
        ("tests/test_one_hot.py",),
        unseen_on=frozenset({"array_api_strict"}),  # which has none
    ),
    Mutation(
        "indices in padding taken",
        "gru_xp.core.stack",
        "        y = zero_in_padding(time_first(x, form, xp=xp), valid, xp=xp)\n        checks",
        "        y = time_first(x, form, xp=xp)\n        checks",
        ("tests/test_one_hot.py",),
        unseen_on=frozenset({"jax"}),  # whose take gives NaN there, which the loop leaves out
    ),
    Mutation(
        "indices not checked",
        "gru_xp.core.checks",
        "if least < 0 or most >= classes:",
        "if least < 0 or most > classes:",
        ("tests/test_one_hot.py",),
        unseen_on=frozenset({"torch", "jax", "array_api_strict"}),  # which are not read
    ),
    Mutation(
        "the gradient of the last block of logits alone",
        "gru_xp.training.projection",
        "parts = [one + other for one, other in zip(gradients, parts, strict=True)]",
        "pass",
        ("tests/test_training_model.py",),
    ),
    Mutation(
        "large arrays updated whole",
        "gru_xp.arrays.pieces",
        "if size <= PIECE or not on_cpu or not is_writeable(first):",
        "if True:",
        ("tests/test_training_optimizer.py",),
    ),
    Mutation(
        "the rest after the last whole piece left as it was",
        "gru_xp.arrays.pieces",
        "for start in range(0, size, PIECE):",
        "for start in range(0, size - size % PIECE, PIECE):",
        ("tests/test_training_optimizer.py",),
        unseen_on=frozenset({"jax"}),  # whose arrays are not written to
    ),
    Mutation(
        "a run judged by all held-out text",
        "gru_xp.training.evaluation",
        "return corpus._replace(held_out=corpus.held_out[:most])",
        "return corpus",
        ("tests/test_training_trainer.py",),
    ),
    # Training in 16 bits, of which array-api-strict has none
    Mutation(
        "master weights rounded to 16 bits",
        "gru_xp.training.optimizer",
        "masters[name] = weight",
        "masters[name] = xp.astype(xp.astype(weight, params[name].dtype), weight.dtype)",
        ("tests/test_training_optimizer.py",),
        unseen_on=frozenset({"array_api_strict"}),
    ),
    Mutation(
        "global norm in the gradients' own 16 bits",
        "gru_xp.training.optimizer",
        "wide = [at_least_float32(gradient, xp=xp) for gradient in gradients.values()]",
        "wide = list(gradients.values())",
        ("tests/test_training_optimizer.py",),
        unseen_on=frozenset({"array_api_strict"}),
    ),
    Mutation(
        "loss scaled after its gradient was rounded to 16 bits",
        "gru_xp.training.projection",
        "dlogits = cast(wide, place.dtype, xp=xp)",
        "dlogits = scale * 1024 * cast(wide / (scale * 1024), place.dtype, xp=xp)",
        ("tests/test_training_16_bits.py",),
        unseen_on=frozenset({"array_api_strict"}),
    ),
    Mutation(
        "update made though a gradient overflowed",
        "gru_xp.training.trainer",
        "if scale.dynamic and not math.isfinite(loss_and_norm[1]):",
        "if False:",
        ("tests/test_training_16_bits.py",),
        unseen_on=frozenset({"array_api_strict"}),
    ),
    # Conventions of frameworks: NumPy arrays on every backend, of accelerators nothing.
    Mutation(
        "gates of a convention in torch's order",
        "gru_xp.interop.layouts",
        'Stored("UVals", "(H, 3H)", (Block("weight_hh", "zrn"),))',
        'Stored("UVals", "(H, 3H)", (Block("weight_hh", "rzn"),))',
        LAYOUTS,
        paths=PORTABLE,
    ),
    Mutation(
        "update gate of another sense not negated",
        CONVERSION,
        'return -rows if gate == "z" and layout.z_weighs_candidate else rows',
        "return rows",
        LAYOUTS,
        paths=PORTABLE,
    ),
    Mutation(
        "weights of a convention not transposed",
        CONVERSION,
        "np.split(part.T if layout.transposed else part, len(block.gates))",
        "np.split(part.reshape(part.T.shape) if layout.transposed else part, len(block.gates))",
        LAYOUTS,
        paths=PORTABLE,
    ),
    Mutation(
        "second bias left out of the sum",
        CONVERSION,
        "return np.where(bias_hh == 0, bias_ih, bias_ih + bias_hh)",
        "return bias_ih",
        LAYOUTS,
        paths=PORTABLE,
    ),
    Mutation(
        "recurrent bias of n added to a sum that the reset gate does not scale",
        CONVERSION,
        'apart = reset_after and (source, gate) == ("bias_hh", "n")',
        "apart = False",
        LAYOUTS,
        paths=PORTABLE,
    ),
    # Frameworks' objects. Those of Keras and of flax.nnx are seen where these are installed.
    Mutation(
        "directions of a framework's layer swapped",
        "gru_xp.interop.flax",
        'for name in ("forward_rnn", "backward_rnn") if name in layer]',
        'for name in ("backward_rnn", "forward_rnn") if name in layer]',
        (FRAMEWORKS + "linen_variables_are_read_with_and_without_params_around_them",),
        paths=PORTABLE,
    ),
    Mutation(
        "layers of a framework in the order of a mapping",
        "gru_xp.interop.flax",
        "layers = [variables[name] for name in numbered] if several",
        "layers = list(variables.values()) if several",
        (FRAMEWORKS + "linen_variables_are_read_with_and_without_params_around_them",),
        paths=PORTABLE,
    ),
    Mutation(
        "Haiku's reset gate after the product",
        "gru_xp.interop.haiku",
        "        reset_after=False,",
        "        reset_after=True,",
        (FRAMEWORKS + "weights_go_to_every_backend",),
        paths=PORTABLE,
    ),
    Mutation(
        "hidden bias of nnx left out",
        "gru_xp.interop.flax",
        'return FLAX_NNX_HN_BIAS if hasattr(cell, "hn_bias") else FLAX_NNX',
        "return FLAX_NNX",
        (FRAMEWORKS + "nnx_cells_with_a_hidden_bias_keep_it",),
        paths=PORTABLE,
    ),
    Mutation(
        "another activation taken for tanh",
        "gru_xp.interop.models",
        "if found != expected:",
        "if False:",
        (REFUSED + "keras_objects_that_a_gru_cannot_express_are_refused",),
        paths=PORTABLE,
    ),
    Mutation(
        "a layer that runs backwards taken for one that runs forwards",
        "gru_xp.interop.keras",
        "if each.go_backwards != backwards:",
        "if False:",
        (REFUSED + "keras_objects_that_a_gru_cannot_express_are_refused",),
        paths=PORTABLE,
    ),
]


class Column(NamedTuple):
    """One way to run the tests: a backend, its accelerator on or off."""

    backend: str
    path: str

    @property
    def title(self) -> str:
        return self.backend + " (accelerated)" * (self.path == "accelerated")


class _Finder:
    """Import the mutated module in place of the one on disk."""

    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != self.mutation.module:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.origin is not None:
                spec.loader = _Loader(name, spec.origin, self.mutation)
                return spec
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutation: Mutation) -> None:
        super().__init__(name, path)
        self.mutation = mutation

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(source.replace(self.mutation.old, self.mutation.new), self.path, "exec")


def stale() -> list[str]:
    """Names of mutations whose text does not stand just once in its module."""
    names = []
    for mutation in MUTATIONS:
        package, _, leaf = mutation.module.partition(".")
        spec = importlib.util.find_spec(package)  # without importing it, or what it needs
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / f"{leaf.replace('.', '/')}.py"
        source = path.read_text(encoding="utf-8")
        if source.count(mutation.old) != 1:
            names.append(mutation.name)
    return names


_FORKS = multiprocessing.get_context("forkserver")
# Imported once, and not for each of some hundred runs. Nothing that imports the package itself.
_FORKS.set_forkserver_preload(
    ["tests.environment", "pytest", *["numpy", "array_api_strict", "onnxruntime", "torch", "jax"]]
)


def run_tests(tests: Sequence[str], column: Column, mutation: int | None) -> tuple[int, str]:
    """Run tests in a process of their own; return pytest's exit status and what it printed."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        process = _FORKS.Process(target=_run, args=(tests, column, mutation, output.name))
        process.start()
        process.join()
        # Not process.exitcode: processes started in other threads may have read it away.
        printed, _, status = output.read().rpartition("\n")
        return (int(status), printed) if status.isdecimal() else (255, f"{printed}\n{status}")


def _run(tests: Sequence[str], column: Column, mutation: int | None, output: str) -> None:
    import pytest

    with open(output, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    assert "gru_xp" not in sys.modules
    if mutation is not None:
        sys.meta_path.insert(0, _Finder(MUTATIONS[mutation]))
    options = ["-p", "no:cacheprovider", "--no-header", "-q", "-x", "--tb=no"]
    options += ["--backend", column.backend, "--path", column.path]
    status = pytest.main([*options, *tests])
    print(f"\n{int(status)}", end="", flush=True)
    os._exit(0)


def has_accelerator(name: str) -> bool:
    """Whether a backend's tests come twice, accelerator on and off."""
    from gru_xp.core.accelerators import find

    return find(name).module is not None


def columns(names: Sequence[str]) -> list[Column]:
    """Every way to run the tests on the named backends."""
    result = []
    for name in names:
        result.append(Column(name, "portable"))
        if has_accelerator(name):
            result.append(Column(name, "accelerated"))
    return result


def applies(index: int, column: Column) -> bool:
    """Whether a mutation can be seen there."""
    mutation = MUTATIONS[index]
    if column.path not in mutation.paths or column.backend in mutation.unseen_on:
        return False
    package = mutation.module.partition(".")[0]
    return package in ("gru_xp", f"gru_xp_{column.backend}")  # not another's accelerator


def outcome(index: int, column: Column) -> str:
    """Run one mutation; say which test saw it, or that it survived."""
    status, printed = run_tests(MUTATIONS[index].tests, column, index)
    failed = re.search(r"^FAILED tests/\w+\.py::([\w:]+)", printed, re.MULTILINE)
    if status == 1 and failed:
        return f"killed by {failed[1].rpartition('::')[2]}"
    return f"SURVIVED (pytest's exit status {status})\n{printed if status != 0 else ''}"


def part(text: str) -> tuple[int, int]:
    """Read `K/N`."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N with 0 <= K < N, got {text!r}")
    return int(number), int(count)


def main() -> int:
    """Run the table."""
    from gru_xp.arrays import libraries

    parser = argparse.ArgumentParser(description="Show that the tests see each mutation.")
    parser.add_argument("--backend", action="append", metavar="NAME")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutations whose name has TEXT")
    parser.add_argument(
        "--part",
        type=part,
        default=(0, 1),
        metavar="K/N",
        help="every Nth of the runs, from number K on",
    )
    options = parser.parse_args()
    for name in options.backend or libraries.NAMESPACES:
        if reason := libraries.unusable(name):
            print(f"left out: {reason}")
            if options.backend:
                return 2
    if names := stale():
        print(f"the code has moved on from these mutations: {', '.join(names)}")
        return 1
    names = options.backend or [
        name for name in libraries.NAMESPACES if not libraries.unusable(name)
    ]
    chosen = [index for index, each in enumerate(MUTATIONS) if options.only in each.name]
    wanted = columns(names)

    every_test = sorted({test for index in chosen for test in MUTATIONS[index].tests})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for column, (status, printed) in zip(
            wanted, pool.map(lambda c: run_tests(every_test, c, None), wanted), strict=True
        ):
            if status:
                print(f"{column.title}: the tests fail without a mutation\n{printed}")
                return 1
        jobs = [(i, column) for i in chosen for column in wanted if applies(i, column)]
        number, count = options.part
        jobs = jobs[number::count]
        killed = survived = 0
        for (index, column), result in zip(
            jobs, pool.map(lambda job: outcome(*job), jobs), strict=True
        ):
            killed += result.startswith("killed")
            survived += result.startswith("SURVIVED")
            print(f"{MUTATIONS[index].name:55} {column.title:18} {result}", flush=True)
    print(
        f"{killed} mutations killed, {survived} survived, on {', '.join(c.title for c in wanted)}"
    )
    return 1 if survived or not killed else 0


if __name__ == "__main__":
    sys.exit(main())
