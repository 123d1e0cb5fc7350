"""GRUs out of ONNX models, and into them."""

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
    """Make a GRU of each GRU node of an ONNX model.

    The weights are initializers, Constant nodes, or what other nodes compute from such. Initial
    states and lengths are inputs of the node, and of the GRU's call. Its output is ``Y`` with the
    directions beside each other, (T, N, 2H), where ONNX has (T, 2, N, H). A row of length 0 keeps
    its initial state in ``h_n``, where ONNX Runtime gives zeros.

    Parameters
    ----------
    source : path or onnx.ModelProto
        Of an opset from 7 on.
    backend, device
        As in `gru_xp.GRUCell`.
    dtype : optional
        As in `gru_xp.GRUCell`; None for that of the weights.

    Returns
    -------
    dict of str to gru_xp.GRU
        Each of one layer, by the node's name, or if it has none, by that of its first output, in
        the order of the graph. `batch_first` is the node's ``layout``, `reset_after` its
        ``linear_before_reset``, `bidirectional` and `reverse` its ``direction``.

    Raises
    ------
    ValueError
        If the file is no ONNX model, has no GRU node in its main graph, or one that a GRU cannot
        express: another activation than sigmoid and tanh, ``clip``, or weights that depend on an
        input.
    OSError
        If the file cannot be read.
    """
    model = source if isinstance(source, onnx.ModelProto) else _read(Path(source))
    opset = max(
        (each.version for each in model.opset_import if _is_standard(each.domain)), default=0
    )
    if opset < _FIRST_OPSET:
        raise ValueError(
            f"onnx.load: the model is of opset {opset}: expected {_FIRST_OPSET} or later, convert "
            "it with onnx.version_converter"
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
        except Exception as error:  # of a hostile model they are of any class
            raise ValueError(f"onnx.load: the node {name!r}: {error}") from error
        gru = make(**options, backend=backend, device=device, dtype=kind)
        gru.load_state_dict(weights)
        found[name] = gru
    if not found:
        raise ValueError("onnx.load: the model's graph has no GRU node")
    return found


def save(model: GRU[Any], path: str | os.PathLike[str], /, *, lengths: bool = False) -> None:
    """Write a GRU as an ONNX model, for any number of steps and rows.

    The model has the inputs ``x`` and ``h0``, in the shapes of the GRU's call with a batch axis,
    and with `lengths` the input ``lengths`` (N,) of int32; its outputs are ``y`` and ``h_n``.
    Dropout, which acts in training alone, is left out.

    Parameters
    ----------
    model : gru_xp.GRU
        On any backend; its dtype is that of the ONNX model, or float32 for bfloat16. ONNX Runtime
        runs float32.
    path : path
        The file is written whole: whatever happens, there is the old one or the new one.
    lengths : bool
        Whether rows have lengths of their own. Of a row of length 0 ONNX Runtime gives zeros in
        ``h_n``, where gru_xp gives its initial state.

    Raises
    ------
    TypeError
        If `model` is no GRU.
    ValueError
        If it is larger than the 2 GiB that such a file can have.
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
    except Exception as error:  # of protobuf, whose errors are of no common class
        raise ValueError(f"onnx.load: {path} is no readable ONNX model: {error}") from error


def _is_standard(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _described(
    node: onnx.NodeProto, constants: _Constants
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return a node's weights by torch's names, and the other arguments of a GRU of them."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    direction = attributes.get("direction", b"forward").decode()
    suffixes = _DIRECTIONS.get(direction)
    if suffixes is None:
        raise ValueError(f"its direction is {direction!r}: expected one of {list(_DIRECTIONS)}")
    activations = [each.decode() for each in attributes.get("activations", [])]
    if activations and [each.lower() for each in activations] != ["sigmoid", "tanh"] * len(
        suffixes
    ):
        raise ValueError(f"its activations are {activations}: expected Sigmoid and Tanh")
    if "clip" in attributes:
        raise ValueError("it has the attribute clip, which a GRU does not: export without it")
    inputs = dict(zip(["X", "W", "R", "B", "sequence_lens", "h0"], node.input, strict=False))
    for name in ("sequence_lens", "h0"):
        given = inputs.get(name)
        value = constants.get(given) if given else None
        if value is not None and (name != "h0" or value.any()):
            raise ValueError(
                f"its {'lengths' if name != 'h0' else 'initial states'} {given!r} are constants of "
                "the model, which a GRU does not keep: make them inputs"
            )
    arrays = {name: constants.value(inputs[name]) for name in ("W", "R", "B") if inputs.get(name)}
    if any(len(array) != len(suffixes) for array in arrays.values()):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"its direction is {direction!r}, its weights have the shapes {shapes}")
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for number, suffix in enumerate(suffixes):
        of_direction = {name: array[number : number + 1] for name, array in arrays.items()}
        named = to_params(ONNX, of_direction).named()
        weights |= {f"{name}_l0{suffix}": array for name, array in named.items()}
    sizes = described({name: array.shape for name, array in weights.items()}).sizes
    width = sizes["hidden_size"]
    if attributes.get("hidden_size", width) != width:
        raise ValueError(
            f"its hidden_size is {attributes['hidden_size']}, its weights have {width}"
        )
    return weights, {
        **sizes,
        "batch_first": bool(attributes.get("layout", 0)),
        "reverse": direction == "reverse",
        "reset_after": bool(attributes.get("linear_before_reset", 0)),
    }


class _Constants:
    """Values of a graph's tensors that depend on no input."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.initializers = {each.name: each for each in model.graph.initializer}
        self.number = {
            name: number for number, node in enumerate(model.graph.node) for name in node.output
        }

    def get(self, name: str, /) -> np.ndarray[Any, Any] | None:
        """Value of a tensor, None where it is no constant."""
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
            elif each not in self.number:
                raise ValueError(f"its weights {name!r} depend on the model's input {each!r}")
            elif self.number[each] not in numbers:
                numbers.add(self.number[each])
                waiting += filter(None, self.model.graph.node[self.number[each]].input)
        nodes = [self.model.graph.node[number] for number in sorted(numbers)]
        if any(node.op_type.startswith(("Random", "Bernoulli", "Multinomial")) for node in nodes):
            raise ValueError(f"its weights {name!r} are drawn at random when the model runs")
        graph = helper.make_graph(
            nodes, "constant", [], [onnx.ValueInfoProto(name=name)], list(used.values())
        )
        whole = helper.make_model(graph, opset_imports=self.model.opset_import)
        try:
            value = ReferenceEvaluator(whole).run(None, {})[0]
        except Exception as error:  # of any operator, whose errors are of no common class
            raise ValueError(f"its weights {name!r} cannot be computed: {error}") from error
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
