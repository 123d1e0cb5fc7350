"""How other frameworks store the weights of one direction of one layer.

There is one `Layout` per convention, with the framework's own names and gate order. If a framework
nests its arrays, as flax does, the names are joined with dots. A layout also describes how the
framework's equations differ from those in `gru_xp.core.equations`.
"""

from __future__ import annotations

from dataclasses import replace

from gru_xp.interop.conversion import PACKED, Block, Layout, Stored, from_params, to_params

__all__ = [
    "EQUINOX",
    "FLAX_LINEN",
    "FLAX_NNX",
    "FLAX_NNX_HN_BIAS",
    "HAIKU",
    "HASTE",
    "KERAS",
    "KERAS_RESET_BEFORE",
    "LAYOUTS",
    "MADMOM",
    "MLX",
    "ONNX",
    "PADDLE",
    "PADDLE_GRU_UNIT",
    "RTNEURAL",
    "TORCH",
    "Block",
    "Layout",
    "Stored",
    "from_params",
    "to_params",
]

TORCH = replace(PACKED, name="torch.nn.GRUCell")
"""torch.nn.GRUCell. torch.nn.GRU appends ``_l0`` and ``_l0_reverse`` to the names. cuDNN uses the
same equations and gate order."""

ONNX = Layout(
    "ONNX GRU",
    (
        Stored("W", "(1, 3H, I)", (Block("weight_ih", "zrn"),)),
        Stored("R", "(1, 3H, H)", (Block("weight_hh", "zrn"),)),
        Stored("B", "(1, 6H)", (Block("bias_ih", "zrn"), Block("bias_hh", "zrn"))),
    ),
    reset_after=None,
    bias_optional=True,
)
"""One direction of ONNX's operator GRU; of two, direction d is ``W[d : d + 1]``. The attribute
``linear_before_reset``, 0 by default, corresponds to `reset_after`."""

KERAS = Layout(
    "keras.layers.GRU(reset_after=True)",
    (
        Stored("kernel", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        Stored("recurrent_kernel", "(H, 3H)", (Block("weight_hh", "zrn"),)),
        Stored("bias", "(2, 3H)", (Block("bias_ih", "zrn"), Block("bias_hh", "zrn"))),
    ),
    transposed=True,
    bias_optional=True,
)
"""keras.layers.GRU and GRUCell with ``reset_after=True``, the default."""

KERAS_RESET_BEFORE = Layout(
    "keras.layers.GRU(reset_after=False)",
    (
        Stored("kernel", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        Stored("recurrent_kernel", "(H, 3H)", (Block("weight_hh", "zrn"),)),
        Stored("bias", "(3H,)", (Block("bias", "zrn"),)),
    ),
    transposed=True,
    reset_after=False,
    bias_optional=True,
)
"""keras.layers.GRU and GRUCell with ``reset_after=False``."""

FLAX_NNX = Layout(
    "flax.nnx.GRUCell",
    (
        Stored("dense_i.kernel", "(I, 3H)", (Block("weight_ih", "rzn"),)),
        Stored("dense_i.bias", "(3H,)", (Block("bias", "rzn"),)),
        Stored("dense_h.kernel", "(H, 3H)", (Block("weight_hh", "rzn"),)),
    ),
    transposed=True,
)
"""flax.nnx.GRUCell, which has no ``b_hn``, although its documentation shows one."""

FLAX_NNX_HN_BIAS = replace(
    FLAX_NNX,
    name="flax.nnx.GRUCell with hn_bias",
    arrays=(
        FLAX_NNX.arrays[0],
        Stored("dense_i.bias", "(3H,)", (Block("bias", "rz"), Block("bias_ih", "n"))),
        FLAX_NNX.arrays[2],
        Stored("hn_bias", "(H,)", (Block("bias_hh", "n"),)),
    ),
)
"""flax.nnx.GRUCell with ``b_hn`` as a separate parameter, as added by flax's pull request 5595."""

FLAX_LINEN = Layout(
    "flax.linen.GRUCell",
    (
        Stored("ir.kernel", "(I, H)", (Block("weight_ih", "r"),)),
        Stored("iz.kernel", "(I, H)", (Block("weight_ih", "z"),)),
        Stored("in.kernel", "(I, H)", (Block("weight_ih", "n"),)),
        Stored("hr.kernel", "(H, H)", (Block("weight_hh", "r"),)),
        Stored("hz.kernel", "(H, H)", (Block("weight_hh", "z"),)),
        Stored("hn.kernel", "(H, H)", (Block("weight_hh", "n"),)),
        Stored("ir.bias", "(H,)", (Block("bias", "r"),)),
        Stored("iz.bias", "(H,)", (Block("bias", "z"),)),
        Stored("in.bias", "(H,)", (Block("bias_ih", "n"),)),
        Stored("hn.bias", "(H,)", (Block("bias_hh", "n"),)),
    ),
    transposed=True,
)
"""flax.linen.GRUCell."""

EQUINOX = Layout(
    "equinox.nn.GRUCell",
    (
        Stored("weight_ih", "(3H, I)", (Block("weight_ih", "rzn"),)),
        Stored("weight_hh", "(3H, H)", (Block("weight_hh", "rzn"),)),
        Stored("bias", "(3H,)", (Block("bias", "rz"), Block("bias_ih", "n"))),
        Stored("bias_n", "(H,)", (Block("bias_hh", "n"),)),
    ),
    bias_optional=True,
)
"""equinox.nn.GRUCell."""

HAIKU = Layout(
    "haiku.GRU",
    (
        Stored("w_i", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        Stored("w_h", "(H, 3H)", (Block("weight_hh", "zrn"),)),
        Stored("b", "(3H,)", (Block("bias", "zrn"),)),
    ),
    transposed=True,
    z_weighs_candidate=True,
    reset_after=False,
)
"""haiku.GRU."""

MLX = Layout(
    "mlx.nn.GRU",
    (
        Stored("Wx", "(3H, I)", (Block("weight_ih", "rzn"),)),
        Stored("Wh", "(3H, H)", (Block("weight_hh", "rzn"),)),
        Stored("b", "(3H,)", (Block("bias", "rz"), Block("bias_ih", "n"))),
        Stored("bhn", "(H,)", (Block("bias_hh", "n"),)),
    ),
    bias_optional=True,
)
"""mlx.nn.GRU."""

PADDLE = replace(PACKED, name="paddle.nn.GRUCell")
"""paddle.nn.GRUCell. paddle.nn.GRU appends ``_l0`` and ``_l0_reverse`` to the names."""

PADDLE_GRU_UNIT = Layout(
    "Paddle's gru_unit",
    (
        Stored("fc", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        # Despite its shape, the memory holds an (H, 2H) matrix followed by an (H, H) matrix.
        Stored("weight", "(H, 3H)", (Block("weight_hh", "zr"), Block("weight_hh", "n"))),
        Stored("bias", "(1, 3H)", (Block("bias", "zrn"),)),
    ),
    transposed=True,
    z_weighs_candidate=True,
    reset_after=False,
    bias_optional=True,
)
"""Paddle's older operators gru and gru_unit with ``origin_mode=False``, the default. With
``origin_mode=True``, z weighs the old state. The operators take the input projection as input:
``fc`` is the weight of the fully connected layer that computes it. If that layer has a bias, add it
to ``bias``."""

MADMOM = Layout(
    "madmom.ml.nn.layers.GRULayer",
    (
        Stored("reset_gate.weights", "(I, H)", (Block("weight_ih", "r"),)),
        Stored("reset_gate.recurrent_weights", "(H, H)", (Block("weight_hh", "r"),)),
        Stored("reset_gate.bias", "(H,)", (Block("bias", "r"),)),
        Stored("update_gate.weights", "(I, H)", (Block("weight_ih", "z"),)),
        Stored("update_gate.recurrent_weights", "(H, H)", (Block("weight_hh", "z"),)),
        Stored("update_gate.bias", "(H,)", (Block("bias", "z"),)),
        Stored("cell.weights", "(I, H)", (Block("weight_ih", "n"),)),
        Stored("cell.recurrent_weights", "(H, H)", (Block("weight_hh", "n"),)),
        Stored("cell.bias", "(H,)", (Block("bias", "n"),)),
    ),
    transposed=True,
    z_weighs_candidate=True,
)
"""madmom.ml.nn.layers.GRULayer, which has no ``b_hn``."""

HASTE = Layout(
    "haste.GRU",
    (
        Stored("kernel", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        Stored("recurrent_kernel", "(H, 3H)", (Block("weight_hh", "zrn"),)),
        Stored("bias", "(3H,)", (Block("bias_ih", "zrn"),)),
        Stored("recurrent_bias", "(3H,)", (Block("bias_hh", "zrn"),)),
    ),
    transposed=True,
)
"""Haste's GRU, for both PyTorch and TensorFlow."""

RTNEURAL = Layout(
    "RTNeural::GRULayer",
    (
        Stored("WVals", "(I, 3H)", (Block("weight_ih", "zrn"),)),
        Stored("UVals", "(H, 3H)", (Block("weight_hh", "zrn"),)),
        Stored("BVals", "(2, 3H)", (Block("bias_ih", "zrn"), Block("bias_hh", "zrn"))),
    ),
    transposed=True,
)
"""RTNeural's GRULayer and GRULayerT, by the names of their setters. The arrays are Keras's."""

LAYOUTS = (
    TORCH,
    ONNX,
    KERAS,
    KERAS_RESET_BEFORE,
    FLAX_NNX,
    FLAX_NNX_HN_BIAS,
    FLAX_LINEN,
    EQUINOX,
    HAIKU,
    MLX,
    PADDLE,
    PADDLE_GRU_UNIT,
    MADMOM,
    HASTE,
    RTNEURAL,
)
"""All layouts."""
