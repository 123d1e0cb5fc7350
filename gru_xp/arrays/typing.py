"""Type aliases for concepts that the array libraries share without a common base class."""

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

    A = TypeVar("A")  # typing.TypeVar takes a default only from Python 3.13 on
"""Type of the arrays of a module, which depends on its library."""

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
"""Names of the array libraries."""


class Where(TypedDict, total=False):
    """Keyword arguments for the weights of a module, apart from the library."""

    device: Device | str | int | None
    dtype: DType | str | None
    rng: np.random.Generator | int | None
