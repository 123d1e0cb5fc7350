"""torch's and JAX's arrays through DLPack into gru_xp and back: same memory, right numbers."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import pytest

import gru_xp
from gru_xp.arrays import libraries, transfer
from gru_xp.checking import reference

T, N, I, H = 5, 3, 8, 16  # noqa: E741
ATOL = 2e-6
JAX_ALIGNMENT = 64  # bytes; what lies otherwise on the host, JAX copies


class Route(NamedTuple):
    """A library whose arrays a user holds, and the backend that computes on the same device."""

    library: str
    backend: str

    @property
    def xp(self) -> Any:
        """The backend's library itself."""
        return importlib.import_module(self.backend)

    @property
    def device(self) -> Any:
        """The library's name of the device."""
        if self.library == "torch":
            return "cuda" if self.backend == "cupy" else "cpu"
        return importlib.import_module("jax").devices("gpu" if self.backend == "cupy" else "cpu")[0]

    def array(self, host: Any) -> Any:
        """Make an array of the user's library."""
        if self.library == "torch":
            return importlib.import_module("torch").tensor(host, device=self.device)
        return importlib.import_module("jax").device_put(host, self.device)

    def back(self, array: Any) -> Any:
        """Bring a result into the user's library."""
        library = "torch" if self.library == "torch" else "jax.numpy"
        return importlib.import_module(library).from_dlpack(array)

    def address(self, array: Any) -> int:
        """Return where the memory of an array of either library begins."""
        for attribute in ("data_ptr", "unsafe_buffer_pointer"):
            if hasattr(array, attribute):
                return int(getattr(array, attribute)())
        return int(array.ctypes.data if self.backend == "numpy" else array.data.ptr)

    def is_shared(self, theirs: Any, ours: Any) -> bool:
        """Whether two arrays are the same memory, as far as the user's library can."""
        if (self.library, self.backend) == ("jax", "numpy") and ours.ctypes.data % JAX_ALIGNMENT:
            return True
        return self.address(theirs) == self.address(ours)


def missing(route: Route) -> str:
    """Say why a route cannot be taken here; an empty string where it can."""
    reason = libraries.unusable(route.library) or libraries.unusable(route.backend)
    if reason or route.backend != "cupy":
        return reason
    if route.library == "torch":
        has_gpu = importlib.import_module("torch").cuda.is_available()
        return "" if has_gpu else "torch is installed but finds no CUDA device"
    try:
        return "" if route.device else "JAX has no GPU"
    except RuntimeError as error:
        return f"JAX is installed but finds no GPU: {error}"


@pytest.fixture(
    params=[Route(library, name) for name in ("numpy", "cupy") for library in ("torch", "jax")],
    ids=lambda route: f"{route.library}-{route.backend}",
)
def route(request: pytest.FixtureRequest) -> Route:
    taken: Route = request.param
    if reason := missing(taken):
        pytest.skip(reason)
    return taken


def draw(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def named_weights(layer: Any) -> dict[str, Any]:
    return {
        name.removesuffix("_l0"): np.asarray(transfer.to_numpy(each), np.float64)
        for name, each in layer.parameters().items()
    }


def assert_close(got: Any, wanted: Any) -> None:
    host = got.cpu().numpy() if hasattr(got, "cpu") else np.asarray(got)
    assert host.dtype == np.float32
    np.testing.assert_allclose(host, wanted, rtol=0, atol=ATOL * max(1, np.max(np.abs(wanted))))


def test_a_sequence_goes_in_and_out_without_a_copy(route: Route) -> None:
    layer = gru_xp.GRU(I, H, backend=route.backend, rng=0)
    x, dy = draw(T, N, I), draw(T, N, H)
    theirs, their_dy = route.array(x), route.array(dy)
    ours = route.xp.from_dlpack(theirs)
    assert route.address(ours) == route.address(theirs)
    y, h_n = layer(ours)
    dx, dh0 = layer.backward(route.xp.from_dlpack(their_dy))

    weights, h0 = named_weights(layer), np.zeros((N, H))
    states = reference.states(weights, x, h0)
    gradients = reference.gradients(weights, x, h0, dy, np.zeros((N, H)))
    results = ((y, states), (h_n, states[-1:]), (dx, gradients["x"]), (dh0, gradients["h0"][None]))
    for result, wanted in results:
        returned = route.back(result)
        assert type(returned) is type(theirs)
        assert returned.device == theirs.device
        assert route.is_shared(returned, result)
        assert_close(returned, wanted)
    assert_close(theirs, x)


@pytest.mark.parametrize("training", [True, False])
def test_a_step_goes_in_and_out_without_a_copy(route: Route, training: bool) -> None:
    cell = gru_xp.GRUCell(I, H, backend=route.backend, rng=0).train(training)
    x, h = draw(N, I), draw(N, H)
    given = [route.array(each) for each in (x, h)]
    ours = [route.xp.from_dlpack(each) for each in given]
    assert [route.address(each) for each in ours] == [route.address(each) for each in given]
    result = cell(*ours)
    returned = route.back(result)
    assert route.is_shared(returned, result)
    assert_close(returned, reference.states(named_weights(cell), x[None], h)[0])
    assert_close(given[1], h)


@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_weights_go_to_torch_without_a_copy_and_its_gru_computes_the_same(name: str) -> None:
    route = Route("torch", name)
    if reason := missing(route):
        pytest.skip(reason)
    import torch

    ours = gru_xp.GRU(I, H, num_layers=2, bidirectional=True, backend=name, rng=0)
    weights = {key: torch.from_dlpack(each) for key, each in ours.parameters().items()}
    for key, each in ours.parameters().items():
        assert route.is_shared(weights[key], each)
    theirs = torch.nn.GRU(I, H, num_layers=2, bidirectional=True, device=route.device)
    theirs.load_state_dict(weights)
    x = route.array(draw(T, N, I))
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        wanted = theirs(x)
    for got, want in zip(ours(route.xp.from_dlpack(x)), wanted, strict=True):
        assert_close(torch.from_dlpack(got), want.cpu().numpy())
