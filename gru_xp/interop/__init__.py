"""Weights from other frameworks, and to them.

`torch` has models from torch's modules and to them, `onnx` out of ONNX models and into them;
`keras`, `flax`, `equinox`, `haiku`, `mlx` and `paddle` from these frameworks' layers and to them.
`layouts` describes how each framework stores the weights of one direction of one layer.
"""
