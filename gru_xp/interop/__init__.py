"""Conversion of models from and to other frameworks.

`torch`, `keras`, `flax`, `equinox`, `haiku`, `mlx` and `paddle` convert from and to the layers of
these frameworks, and `onnx` from and to ONNX models. `layouts` describes how each framework stores
the weights of one direction of one layer.
"""
