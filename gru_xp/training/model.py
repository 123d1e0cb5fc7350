"""CharModel: a character-level language model of one GRU layer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np

from gru_xp import backend, parameters, sequence
from gru_xp.parameters import GRUParams
from gru_xp.tape import Tape
from gru_xp.typing import Array, Device, DType, Namespace

_GRU = "gru."
"""What the names of the GRU's weights start with."""


class ModelTape(NamedTuple):
    """What the backward pass of a chunk needs of its forward pass."""

    x: Array
    """One-hot input, (T, N, V)."""
    h: Array
    """States, (T, N, H)."""
    gru: Tape


class CharModel:
    """Predicts each character from those before it: one-hot input, a GRU layer, a projection.

    Parameters
    ----------
    params : dict of arrays
        ``gru.weight_ih`` (3H, V), ``gru.weight_hh`` (3H, H), ``gru.bias_ih`` and ``gru.bias_hh``
        (3H,), ``output.weight`` (V, H) and ``output.bias`` (V,), of one library, device and dtype.
        Kept as they are, without a copy; no method changes them.

    Attributes
    ----------
    params : dict of arrays
        May be assigned: training replaces all weights at every update.
    """

    def __init__(self, params: dict[str, Array]) -> None:
        self.params = params

    @classmethod
    def initial(
        cls,
        vocabulary_size: int,
        hidden_size: int,
        *,
        rng: np.random.Generator | int,
        xp: Namespace,
        dtype: DType,
        device: Device | None = None,
    ) -> Self:
        """Draw all weights from U(-1/sqrt(H), 1/sqrt(H)); the output's bias starts at zero.

        They are drawn on the host: one seed gives the same weights on every backend.
        """
        generator = np.random.default_rng(rng)
        gru = parameters.initial(
            parameters.shapes(vocabulary_size, hidden_size),
            hidden_size,
            rng=generator,
            xp=xp,
            dtype=dtype,
            device=device,
        )
        bound = 1 / math.sqrt(hidden_size)
        weight = generator.uniform(-bound, bound, (vocabulary_size, hidden_size))
        params = {_GRU + name: array for name, array in gru.items()}
        params["output.weight"] = backend.from_numpy(weight, xp=xp, dtype=dtype, device=device)
        params["output.bias"] = xp.zeros(vocabulary_size, dtype=dtype, device=device)
        return cls(params)

    @property
    def xp(self) -> Namespace:
        """Namespace of the weights' library."""
        return backend.array_namespace(self.params["output.bias"])

    @property
    def gru(self) -> GRUParams:
        """Weights of the GRU layer, as `gru_xp.functional` takes them."""
        return GRUParams(*(self.params[_GRU + name] for name in GRUParams._fields))

    @property
    def vocabulary_size(self) -> int:
        """Number of classes that the model tells apart, V."""
        return int(self.params["output.weight"].shape[0])

    @property
    def hidden_size(self) -> int:
        """Number of hidden units, H."""
        return int(self.params["output.weight"].shape[1])

    def start(self, rows: int, /) -> Array:
        """State (rows, H) before the first character: zeros."""
        like = self.params["output.bias"]
        return self.xp.zeros(
            (rows, self.hidden_size), dtype=like.dtype, device=backend.device(like)
        )

    def indices(self, host: np.ndarray[Any, Any], /) -> Array:
        """Copy indices into the vocabulary to where the weights are, as int32."""
        place = backend.device(self.params["output.bias"])
        return backend.from_numpy(host, xp=self.xp, dtype=self.xp.int32, device=place)

    def logits(self, h: Array, /) -> Array:
        """Logits (..., V) of the next character, of states (..., H)."""
        xp = self.xp
        rows = xp.reshape(h, (-1, self.hidden_size))
        scores = xp.matmul(rows, self.params["output.weight"].T) + self.params["output.bias"]
        return xp.reshape(scores, (*h.shape[:-1], self.vocabulary_size))

    def forward(
        self, inputs: Array, h0: Array, /, *, keep_tape: bool = True
    ) -> tuple[Array, Array, ModelTape | None]:
        """Run over a chunk of text.

        Parameters
        ----------
        inputs : integer array, (T, N)
            Characters as indices into the vocabulary, time first, N streams side by side.
        h0 : array, (N, H)
            State before the chunk.
        keep_tape : bool
            Whether a backward will follow.

        Returns
        -------
        logits : array, (T, N, V)
            Of the character after each input.
        h_last : array, (N, H)
            State after the chunk.
        tape : ModelTape or None
        """
        xp = self.xp
        like = self.params["output.bias"]
        classes = xp.arange(self.vocabulary_size, dtype=inputs.dtype, device=backend.device(like))
        x = xp.astype(inputs[..., None] == classes, like.dtype)
        h, tape = sequence.forward(self.gru, x, h0, keep_tape=keep_tape, xp=xp)
        # A copy, so that carrying the state on does not keep the whole chunk's states alive.
        h_last = xp.asarray(h[-1, ...], copy=True)
        return self.logits(h), h_last, None if tape is None else ModelTape(x, h, tape)

    def backward(self, tape: ModelTape, dlogits: Array, /) -> dict[str, Array]:
        """Gradients with respect to `params`, given that of the logits (T, N, V)."""
        xp = self.xp
        flat = xp.reshape(dlogits, (-1, self.vocabulary_size))
        dh = xp.reshape(xp.matmul(flat, self.params["output.weight"]), tape.h.shape)
        of_gru, _, _ = sequence.backward(self.gru, tape.x, tape.gru, dh, None, with_dx=False, xp=xp)
        gradients = {_GRU + name: array for name, array in of_gru.named().items()}
        gradients["output.weight"] = xp.matmul(flat.T, xp.reshape(tape.h, (-1, self.hidden_size)))
        gradients["output.bias"] = xp.sum(flat, axis=0)
        return gradients

    @property
    def _xp(self) -> Namespace:
        return backend.array_namespace(self.params["output.bias"])
