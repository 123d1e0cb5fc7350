"""ONNX Runtime as a contestant: its GRU operator, forward alone."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gru_xp.bench.cases import HostArray, Job, Work
from gru_xp.bench.contestant import Call, Contestant

# Any: the types are checked without these libraries too
onnx: Any = importlib.import_module("onnx")
onnxruntime: Any = importlib.import_module("onnxruntime")


class Peer(Contestant):
    """One GRU node in a model of its own."""

    name = "onnxruntime"

    def __init__(self, job: Job) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors alone
        self._options = options

    def forward(self, work: Work, /) -> Call:
        """See `Contestant`."""
        session = onnxruntime.InferenceSession(
            _model(work), sess_options=self._options, providers=["CPUExecutionProvider"]
        )
        inputs = {"X": work.x, "initial_h": work.h0[None]}

        def run() -> Any:
            return session.run(None, inputs)

        def results() -> dict[str, HostArray]:
            y, h_n = run()  # (T, directions, N, H), (directions, N, H)
            return {"y": y[:, 0], "h_n": h_n[0]}

        return Call(run, results)


def _model(work: Work) -> bytes:
    """Write the model with the weights as constants, which ONNX Runtime packs beforehand."""
    steps, rows, inputs, hidden = work.size
    weights = {name: _reordered(array) for name, array in work.weights.items()}
    constants = {
        "W": weights["weight_ih"][None],
        "R": weights["weight_hh"][None],
        "B": np.concatenate([weights["bias_ih"], weights["bias_hh"]])[None],
    }
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=hidden,
        linear_before_reset=1,
    )

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "gru",
        [value("X", steps, rows, inputs), value("initial_h", 1, rows, hidden)],
        [value("Y", steps, 1, rows, hidden), value("Y_h", 1, rows, hidden)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _reordered(array: HostArray) -> HostArray:
    """Turn the gates r, z, n into ONNX's z, r, h."""
    r, z, n = np.split(array, 3)
    return np.concatenate([z, r, n])
