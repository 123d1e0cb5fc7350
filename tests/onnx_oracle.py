"""ONNX Runtime's GRU as an oracle; importing it needs onnx and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]


def run(
    weights: dict[str, Array],
    x: Array,
    h0: Array,
    lengths: list[int] | None,
    *,
    reset_after: bool,
    reverse: bool = False,
) -> tuple[Array, Array]:
    """Run one layer in float32 by torch's names; return y (T, N, directions * H) and h_n."""
    directions, _, size = h0.shape
    ends = ["", "_reverse"][:directions]

    def reordered(name: str) -> Array:  # gates z, r, h in ONNX
        arrays = [weights[f"{name}_l0{end}"] for end in ends]
        return np.stack(
            [np.concatenate([a[size : 2 * size], a[:size], a[2 * size :]]) for a in arrays]
        )

    inputs = {
        "X": x,
        "W": reordered("weight_ih"),
        "R": reordered("weight_hh"),
        "B": np.concatenate([reordered("bias_ih"), reordered("bias_hh")], axis=1),
        "initial_h": h0,
    }
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h"]
    if lengths is None:
        names[4] = ""
    else:
        inputs["sequence_lens"] = np.array(lengths, dtype=np.int32)
    node = helper.make_node(
        "GRU",
        names,
        ["Y", "Y_h"],
        hidden_size=size,
        direction="bidirectional" if directions == 2 else "reverse" if reverse else "forward",
        linear_before_reset=int(reset_after),
    )
    types = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info(k, types[a.dtype], a.shape) for k, a in inputs.items()],
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * (4 if k == "Y" else 3))
            for k in ("Y", "Y_h")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, h_n = session.run(None, inputs)  # (T, directions, N, H)
    return np.concatenate([y[:, k] for k in range(directions)], axis=-1), h_n
