"""Names for the types that array libraries share but no common base class states."""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""

Namespace: TypeAlias = Any
"""An Array API namespace, as array_api_compat.array_namespace returns it."""

Device: TypeAlias = Any
"""A device object of an array library."""

DType: TypeAlias = Any
"""A dtype object of an array library."""
