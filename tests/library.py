"""An array library as the tests use it: arrays in, arrays out, and nothing lost on the way."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
import pytest

from gru_xp.arrays import devices, dtypes, libraries, transfer
from gru_xp.arrays.place import Place


class Library:
    """One array library on one device."""

    def __init__(self, name: str, *, read_only: bool = False, accelerated: bool = True) -> None:
        self.name = name
        self.read_only = read_only
        self.accelerated = accelerated
        self.id = name + "-readonly" * read_only + "-portable" * (not accelerated)
        self.xp = libraries.namespace(name)
        known = devices.devices(name)
        self.device = known[min(1, len(known) - 1)]
        self.other_device = known[0]
        self.mutable = name != "jax"

    def array(self, host: Any, dtype: str = "float64") -> Any:
        """Make an array of this library, on its device."""
        host = np.asarray(host)
        native = self.dtype(dtype) or getattr(self.xp, dtype)  # which has integers too
        made = transfer.from_numpy(host, Place(self.name, self.device, native))
        if self.read_only:
            made.flags.writeable = False
        return made

    def skip_without(self, dtype: str) -> None:
        """Skip the test where the library lacks a dtype."""
        if self.dtype(dtype) is None:
            pytest.skip(f"{self.name} has no {dtype}")

    def dtype(self, name: str) -> Any:
        """Return the library's real floating dtype of a name, None where it has none."""
        try:
            return dtypes.as_dtype(self.name, name, device=self.device)
        except (TypeError, libraries.BackendError):
            return None

    def place(self, dtype: str = "float64") -> Place:
        """Return the place of this library's arrays of a dtype."""
        return Place(self.name, self.device, self.dtype(dtype))

    def moved(self, array: Any) -> Any:
        """Copy an array to another device of this library."""
        return array_api_compat.to_device(array, self.other_device)

    def numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy back what must be an array of this library and device."""
        assert libraries.library_of(array) == self.name, f"{type(array)} is no array of {self.name}"
        assert devices.device(array) == self.device
        return transfer.to_numpy(array)

    def assert_close(
        self, actual: Any, expected: Any, *, atol: float, dtype: str | None = None
    ) -> None:
        """Compare shape and values, absolutely; also the dtype where one is named."""
        got = self.numpy(actual)
        wanted = (
            transfer.to_numpy(expected) if libraries.library_of(expected) else np.asarray(expected)
        )
        assert got.shape == wanted.shape
        if dtype is not None:
            assert dtypes.dtype_name(actual.dtype) == dtype
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)
