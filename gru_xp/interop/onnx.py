"""Conversion of GRUs from and to ONNX models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from gru_xp.arrays import transfer
from gru_xp.arrays.typing import Device, DType
from gru_xp.core.described import described
from gru_xp.core.parameters import GRUParams, flag
from gru_xp.files import check_regular, write_whole
from gru_xp.interop.layouts import ONNX, from_params, to_params
from gru_xp.layer import GRU

__all__ = ["load", "save"]

_FIRST_OPSET, _OPSET, _IR_VERSION = 7, 14, 8
_DIRECTIONS = {"forward": [""], "reverse": [""], "bidirectional": ["", "_reverse"]}


def load(
    source: str | os.PathLike[str] | onnx.ModelProto,
    /,
    *,
    backend: str = "numpy",
    device: Device | str | int | None = None,
    dtype: DType | str | None = None,
) -> dict[str, GRU[Any]]:
    """Create a GRU for each GRU node of an ONNX model.

    The weights may be initializers, Constant nodes or values that other nodes compute from them.
    Initial states and lengths must be inputs of the model; pass them to the call of the GRU. The
    output ``y`` has shape (T, N, 2H) for two directions, whereas ONNX's ``Y`` has shape
    (T, 2, N, H). For a row of length 0, ``h_n`` is the initial state, whereas ONNX Runtime returns
    zeros.

    Parameters
    ----------
    source : path-like or onnx.ModelProto
        The model, with opset 7 or later.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`. None selects the dtype of the weights.

    Returns
    -------
    dict of str to gru_xp.GRU
        GRUs with one layer each, in the order of the graph. The key is the name of the node or, if
        it has none, of its first output. `batch_first` is taken from the node's ``layout``,
        `reset_after` from ``linear_before_reset``, and `bidirectional` and `reverse` from
        ``direction``.

    Raises
    ------
    ValueError
        If the file is not an ONNX model or its main graph has no GRU node; or if a node has
        features that a GRU does not support: activations other than sigmoid and tanh, ``clip``,
        weights that depend on an input, or constant lengths or initial states.
    OSError
        If the file cannot be read.
    """
    model = source if isinstance(source, onnx.ModelProto) else _read(Path(source))
    opset = max(
        (each.version for each in model.opset_import if _is_standard(each.domain)), default=0
    )
    if not opset:
        raise ValueError("onnx.load: expected an ONNX model, got one without an opset")
    if opset < _FIRST_OPSET:
        raise ValueError(
            f"onnx.load: expected a model with opset {_FIRST_OPSET} or later, got opset {opset}. "
            "Convert it with onnx.version_converter"
        )
    constants = _Constants(model)
    make: Any = GRU
    found: dict[str, GRU[Any]] = {}
    for node in model.graph.node:
        if node.op_type != "GRU" or not _is_standard(node.domain):
            continue
        names = [each for each in (node.name, *node.output) if each and each not in found]
        name = names[0] if names else f"{node.name}_{len(found)}"
        try:
            weights, options = _described(node, constants)
            kind = dtype or next(iter(weights.values())).dtype.name
        except Exception as error:  # a malformed model may cause any exception
            raise ValueError(f"onnx.load: node {name!r}: {error}") from error
        gru = make(**options, backend=backend, device=device, dtype=kind)
        gru.load_state_dict(weights)
        found[name] = gru
    if not found:
        raise ValueError("onnx.load: expected a model with a GRU node in its main graph, got none")
    return found


def save(model: GRU[Any], path: str | os.PathLike[str], /, *, lengths: bool = False) -> None:
    """Save a GRU as an ONNX model for any number of steps and rows.

    The inputs of the model are ``x`` and ``h0``, with the shapes of the GRU's arguments including
    the batch axis, and with `lengths` also ``lengths`` (N,) of dtype int32. The outputs are ``y``
    and ``h_n``. Dropout is not exported, since it acts only in training mode.

    Parameters
    ----------
    model : gru_xp.GRU
        GRU on any backend. The ONNX model has its dtype, or float32 for bfloat16. ONNX Runtime
        supports float32.
    path : path-like
        Name of the file. It is replaced atomically: if writing fails, the old file is kept.
    lengths : bool
        Whether the model has an input for the lengths of the rows. For a row of length 0, ONNX
        Runtime returns zeros in ``h_n``, whereas gru_xp returns the initial state.

    Raises
    ------
    TypeError
        If `model` is not a GRU.
    ValueError
        If the model exceeds 2 GiB, the maximum size of an ONNX file.
    OSError
        If the file cannot be written.
    """
    if not isinstance(model, GRU):
        raise TypeError(f"onnx.save: expected a GRU, got {type(model).__name__}")
    proto = _model(model, with_lengths=flag("lengths", lengths))
    onnx.checker.check_model(proto)
    write_whole(Path(path), proto.SerializeToString(deterministic=True))


def _read(path: Path) -> onnx.ModelProto:
    check_regular(path)
    try:
        return onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's errors have no common base class
        raise ValueError(f"onnx.load: cannot read an ONNX model from {path}: {error}") from error


def _is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _described(
    node: onnx.NodeProto, constants: _Constants
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return a node's weights by torch's names, and the other arguments of the GRU."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    direction = attributes.get("direction", b"forward").decode()
    suffixes = _DIRECTIONS.get(direction)
    if suffixes is None:
        raise ValueError(
            f"expected a direction from {', '.join(map(repr, _DIRECTIONS))}, got {direction!r}"
        )
    activations = [each.decode() for each in attributes.get("activations", [])]
    if activations and [each.lower() for each in activations] != ["sigmoid", "tanh"] * len(
        suffixes
    ):
        raise ValueError(f"expected the activations Sigmoid and Tanh, got {activations}")
    if "clip" in attributes:
        raise ValueError(
            "the attribute clip is not supported. Export the model without cell clipping"
        )
    inputs = dict(zip(["X", "W", "R", "B", "sequence_lens", "h0"], node.input, strict=False))
    for name in ("sequence_lens", "h0"):
        given = inputs.get(name)
        value = constants.get(given) if given else None
        if value is not None and (name != "h0" or value.any()):
            raise ValueError(
                f"expected the {'lengths' if name != 'h0' else 'initial states'} {given!r} to be "
                "an input of the model, got a constant. Make it an input"
            )
    arrays = {name: constants.value(inputs[name]) for name in ("W", "R", "B") if inputs.get(name)}
    if any(len(array) != len(suffixes) for array in arrays.values()):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            f"expected weights with a first axis of length {len(suffixes)} for the direction "
            f"{direction!r}, got the shapes {shapes}"
        )
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for number, suffix in enumerate(suffixes):
        of_direction = {name: array[number : number + 1] for name, array in arrays.items()}
        named = to_params(ONNX, of_direction).named()
        weights |= {f"{name}_l0{suffix}": array for name, array in named.items()}
    sizes = described({name: array.shape for name, array in weights.items()}).sizes
    width = sizes["hidden_size"]
    if attributes.get("hidden_size", width) != width:
        raise ValueError(
            f"expected hidden_size={width}, the size of its weights, got "
            f"{attributes['hidden_size']}"
        )
    return weights, {
        **sizes,
        "batch_first": _flag(attributes, "layout"),
        "reverse": direction == "reverse",
        "reset_after": _flag(attributes, "linear_before_reset"),
    }


def _flag(attributes: dict[str, Any], name: str) -> bool:
    value = attributes.get(name, 0)
    if value not in (0, 1):
        raise ValueError(f"expected {name} to be 0 or 1, got {value!r}")
    return bool(value)


class _Constants:
    """Values of the tensors of a graph that do not depend on its inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.initializers = {each.name: each for each in model.graph.initializer}
        self.inputs = {each.name for each in model.graph.input}
        self.number = {
            name: number for number, node in enumerate(model.graph.node) for name in node.output
        }

    def get(self, name: str, /) -> np.ndarray[Any, Any] | None:
        """Return the value of a tensor, or None if it is not constant."""
        try:
            return self.value(name)
        except ValueError:
            return None

    def value(self, name: str, /) -> np.ndarray[Any, Any]:
        if name in self.initializers:
            value: np.ndarray[Any, Any] = numpy_helper.to_array(self.initializers[name])
            return value
        numbers: set[int] = set()
        used: dict[str, TensorProto] = {}
        waiting = [name]
        while waiting:
            each = waiting.pop()
            if each in self.initializers:
                used[each] = self.initializers[each]
            elif each in self.inputs:
                raise ValueError(
                    f"expected constant weights {name!r}, got weights that depend on the model's "
                    f"input {each!r}"
                )
            elif each not in self.number:
                raise ValueError(
                    f"expected constant weights {name!r}, got a model without a tensor {each!r}"
                )
            elif self.number[each] not in numbers:
                numbers.add(self.number[each])
                waiting += filter(None, self.model.graph.node[self.number[each]].input)
        nodes = [self.model.graph.node[number] for number in sorted(numbers)]
        if any(node.op_type.startswith(("Random", "Bernoulli", "Multinomial")) for node in nodes):
            raise ValueError(f"expected constant weights {name!r}, got randomly drawn weights")
        graph = helper.make_graph(
            nodes, "constant", [], [onnx.ValueInfoProto(name=name)], list(used.values())
        )
        whole = helper.make_model(graph, opset_imports=self.model.opset_import)
        try:
            value = ReferenceEvaluator(whole).run(None, {})[0]
        except Exception as error:  # the operators' errors have no common base class
            raise ValueError(f"cannot compute its weights {name!r}: {error}") from error
        return value


def _model(gru: GRU[Any], *, with_lengths: bool) -> onnx.ModelProto:
    weights = [
        GRUParams(*(None if array is None else transfer.to_numpy(array) for array in params))
        for params in gru.params
    ]
    kind = helper.np_dtype_to_tensor_dtype(weights[0].weight_ih.dtype)
    directions, layers = 1 + gru.bidirectional, gru.num_layers
    direction = "bidirectional" if gru.bidirectional else "reverse" if gru.reverse else "forward"
    size = gru.hidden_size
    nodes, initializers = [], []

    def constant(name: str, value: np.ndarray[Any, Any]) -> str:
        initializers.append(numpy_helper.from_array(value, name))
        return name

    def add(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return outputs[0]

    x = add("Transpose", ["x"], ["x_time_first"], perm=[1, 0, 2]) if gru.batch_first else "x"
    states = ["h0"]
    if layers > 1:
        states = [f"h0_l{layer}" for layer in range(layers)]
        sizes = constant("directions", np.full(layers, directions, dtype=np.int64))
        add("Split", ["h0", sizes], states, axis=0)
    last = []
    width = constant("joined", np.asarray([0, 0, directions * size], dtype=np.int64))
    for layer in range(layers):
        of_layer = [
            from_params(ONNX, each, reset_after=gru.reset_after)
            for each in weights[layer * directions : (layer + 1) * directions]
        ]
        arrays = [
            constant(f"{name}_l{layer}", np.concatenate([each[name] for each in of_layer]))
            for name in of_layer[0]
        ]
        y, h_n = f"y_l{layer}", f"h_n_l{layer}"
        add(
            "GRU",
            [
                x,
                *arrays,
                *([] if gru.bias else [""]),
                "lengths" if with_lengths else "",
                states[layer],
            ],
            [y, h_n],
            hidden_size=size,
            direction=direction,
            linear_before_reset=int(gru.reset_after),
        )
        last.append(h_n)
        # (T, directions, N, H) to (T, N, directions * H)
        turned = add("Transpose", [y], [f"{y}_turned"], perm=[0, 2, 1, 3])
        x = add("Reshape", [turned, width], [f"{y}_joined"])
    add("Transpose", [x], ["y"], perm=[1, 0, 2]) if gru.batch_first else add("Identity", [x], ["y"])
    add("Concat", last, ["h_n"], axis=0)

    axes = ["batch", "time"] if gru.batch_first else ["time", "batch"]
    value = helper.make_tensor_value_info
    inputs = [
        value("x", kind, [*axes, gru.input_size]),
        value("h0", kind, [layers * directions, "batch", size]),
    ]
    if with_lengths:
        inputs.append(value("lengths", TensorProto.INT32, ["batch"]))
    outputs = [
        value("y", kind, [*axes, directions * size]),
        value("h_n", kind, [layers * directions, "batch", size]),
    ]
    graph = helper.make_graph(nodes, "gru", inputs, outputs, initializers)
    return helper.make_model(
        graph,
        producer_name="gru_xp",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
