"""ONNX Runtime as a contestant: its GRU operator, forward only."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_xp.bench.cases import HostArray, Job, Work
from gru_xp.bench.contestant import Call, Contestant

# Any, so that types can be checked without these libraries
onnx: Any = importlib.import_module("onnx")
onnxruntime: Any = importlib.import_module("onnxruntime")

Shapes = Mapping[str, tuple[int, ...]]


class Peer(Contestant):
    """A model that consists of a GRU node."""

    name = "onnxruntime"

    def __init__(self, job: Job) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors only
        self._options = options

    def forward(self, work: Work, /) -> Call:
        """See `Contestant`."""
        session = self._session(_sequence_model(work))
        inputs = {"X": work.x, "h_0": work.h0[None]}

        def run() -> Any:
            return session.run(None, inputs)

        def results() -> dict[str, HostArray]:
            y, h_n = run()  # (T, directions, N, H), (directions, N, H)
            return {"y": y[:, 0], "h_n": h_n[0]}

        return Call(run, results)

    def streams(self, work: Work, /) -> dict[str, Call]:
        """See `Contestant`."""
        session = self._session(_step_model(work))
        steps = list(work.x[:, None])  # (1, 1, I)
        names = [f"h_{layer}" for layer in range(len(work.layers))]
        zeros = np.zeros((1, 1, work.size.hidden), dtype=np.float32)
        inputs = {"X": steps[0]} | dict.fromkeys(names, zeros)

        def run() -> None:
            inputs.update(zip(names, session.run(None, inputs), strict=True))

        def results() -> dict[str, HostArray]:
            states, rows = [zeros] * len(names), []
            for x in steps:
                states = session.run(None, {"X": x} | dict(zip(names, states, strict=True)))
                rows.append(states[-1][0, 0])
            return {"y": np.stack(rows)}

        return {self.name: Call(run, results)}

    def _session(self, model: bytes) -> Any:
        return onnxruntime.InferenceSession(
            model, sess_options=self._options, providers=["CPUExecutionProvider"]
        )


def _sequence_model(work: Work) -> bytes:
    """Create a model with one layer that returns the whole sequence and the final state."""
    steps, rows, inputs, hidden = work.size
    given = {"X": (steps, rows, inputs), "h_0": (1, rows, hidden)}
    made = {"Y": (steps, 1, rows, hidden), "n_0": (1, rows, hidden)}
    return _model(work, [_node(hidden, 0, "X", "Y")], given, made)


def _step_model(work: Work) -> bytes:
    """Create a model of one step through all layers, which maps states to the next states."""
    _, rows, inputs, hidden = work.size
    layers = range(len(work.layers))
    # The state after a step, (directions, N, H), has the shape of the next layer's (T, N, I).
    sources = ["X", *(f"n_{layer}" for layer in layers)]
    nodes = [_node(hidden, layer, sources[layer], "") for layer in layers]
    state = (1, rows, hidden)
    given = {"X": (1, rows, inputs)} | {f"h_{layer}": state for layer in layers}
    return _model(work, nodes, given, {f"n_{layer}": state for layer in layers})


def _node(hidden: int, layer: int, source: str, target: str) -> Any:
    """Create a layer's GRU node. If `target` is empty, the output Y is not computed."""
    return onnx.helper.make_node(
        "GRU",
        [source, f"W_{layer}", f"R_{layer}", f"B_{layer}", "", f"h_{layer}"],
        [target, f"n_{layer}"],
        hidden_size=hidden,
        linear_before_reset=1,
    )


def _model(work: Work, nodes: list[Any], given: Shapes, made: Shapes) -> bytes:
    """Create a model with constant weights, which ONNX Runtime packs beforehand."""
    helper = onnx.helper
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in each]
        for each in (given.items(), made.items())
    )
    constants = [
        onnx.numpy_helper.from_array(array, f"{name}_{layer}")
        for layer, weights in enumerate(work.layers)
        for name, array in _constants(weights).items()
    ]
    graph = helper.make_graph(nodes, "gru", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _constants(weights: dict[str, HostArray]) -> dict[str, HostArray]:
    """Convert a layer's weights to ONNX's layout."""
    ordered = {name: _reordered(array) for name, array in weights.items()}
    return {
        "W": ordered["weight_ih"][None],
        "R": ordered["weight_hh"][None],
        "B": np.concatenate([ordered["bias_ih"], ordered["bias_hh"]])[None],
    }


def _reordered(array: HostArray) -> HostArray:
    """Reorder the gates from r, z, n to ONNX's z, r, h."""
    r, z, n = np.split(array, 3)
    return np.concatenate([z, r, n])
