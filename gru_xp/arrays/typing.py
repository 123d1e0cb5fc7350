"""Names for the types that array libraries share but no common base class states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np

if TYPE_CHECKING:
    import jax
    import torch
    from typing_extensions import TypeVar

    TorchArray: TypeAlias = torch.Tensor
    JaxArray: TypeAlias = jax.Array

    A = TypeVar("A", default=Any)
else:
    from typing import TypeVar

    A = TypeVar("A")  # a default is of Python 3.13
"""The arrays of a module: those of its library."""

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""

Namespace: TypeAlias = Any
"""An Array API namespace, as array_api_compat.array_namespace returns it."""

Device: TypeAlias = Any
"""A device object of an array library."""

DType: TypeAlias = Any
"""A dtype object of an array library."""

NumPyArray: TypeAlias = np.ndarray[Any, Any]

Backend: TypeAlias = Literal["numpy", "cupy", "torch", "jax", "array_api_strict", "auto"]
"""What names an array library."""


class Where(TypedDict, total=False):
    """How the weights of a module are made, besides their library."""

    device: Device | str | int | None
    dtype: DType | str | None
    rng: np.random.Generator | int | None
