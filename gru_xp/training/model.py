"""CharModel: a character-level language model on a GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gru_xp import backend, parameters, stack
from gru_xp.parameters import GRUParams
from gru_xp.products import matmul, sum_of_rows
from gru_xp.stack import Form, GRUTape
from gru_xp.typing import Array, Device, DType, Namespace

_GRU = "gru."
"""What the names of the GRU's weights start with."""


class ModelTape(NamedTuple):
    """What the backward pass of a chunk needs of its forward pass."""

    h: Array
    """What went into the projection, (T, N, H)."""
    mask: Array | None
    """What it had been multiplied by."""
    gru: GRUTape


class CharModel:
    """Predicts each character from those before it: one-hot input, GRU layers, a projection.

    Parameters
    ----------
    params : dict of arrays
        For each layer k ``gru.weight_ih_lk`` (3H, V), in later layers (3H, H),
        ``gru.weight_hh_lk`` (3H, H), ``gru.bias_ih_lk`` and ``gru.bias_hh_lk`` (3H,); and
        ``output.weight`` (V, H) and ``output.bias`` (V,); of one library, device and dtype. Kept
        as they are, without a copy; no method changes them.

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
        layers: int = 1,
        *,
        rng: np.random.Generator | int,
        xp: Namespace,
        dtype: DType,
        device: Device | None = None,
    ) -> Self:
        """Draw all weights from U(-1/sqrt(H), 1/sqrt(H)); the output's bias starts at zero.

        They are drawn on the host: one seed gives the same weights on every backend.
        """
        shapes: dict[str, tuple[int, ...]] = {"output.weight": (vocabulary_size, hidden_size)}
        for layer in range(layers):
            width = hidden_size if layer else vocabulary_size
            of_layer = parameters.shapes(width, hidden_size)
            shapes |= {f"{_GRU}{name}_l{layer}": shape for name, shape in of_layer.items()}
        params = parameters.initial(shapes, hidden_size, rng=rng, xp=xp, dtype=dtype, device=device)
        params["output.bias"] = xp.zeros(vocabulary_size, dtype=dtype, device=device)
        return cls(params)

    @property
    def xp(self) -> Namespace:
        """Namespace of the weights' library."""
        return backend.array_namespace(self.params["output.bias"])

    @property
    def layers(self) -> int:
        """Number of GRU layers."""
        return sum(name.startswith(f"{_GRU}weight_ih_l") for name in self.params)

    @property
    def gru(self) -> list[GRUParams]:
        """Weights of the GRU layers, as `gru_xp.functional` takes them."""
        return [
            GRUParams(*(self.params[f"{_GRU}{name}_l{layer}"] for name in GRUParams._fields))
            for layer in range(self.layers)
        ]

    @property
    def vocabulary_size(self) -> int:
        """Number of classes that the model tells apart, V."""
        return int(self.params["output.weight"].shape[0])

    @property
    def hidden_size(self) -> int:
        """Number of hidden units, H."""
        return int(self.params["output.weight"].shape[1])

    def start(self, rows: int, /) -> Array:
        """States (layers, rows, H) before the first character: zeros."""
        like = self.params["output.bias"]
        shape = (self.layers, rows, self.hidden_size)
        return self.xp.zeros(shape, dtype=like.dtype, device=backend.device(like))

    def indices(self, host: np.ndarray[Any, Any], /) -> Array:
        """Copy indices into the vocabulary to where the weights are, as int32."""
        place = backend.device(self.params["output.bias"])
        return backend.from_numpy(host, xp=self.xp, dtype=self.xp.int32, device=place)

    def logits(self, h: Array, /) -> Array:
        """Logits (..., V) of the next character, of states (..., H)."""
        xp = self.xp
        rows = xp.reshape(h, (-1, self.hidden_size))
        weight, bias = self.params["output.weight"], self.params["output.bias"]
        scores = matmul(rows, weight.T, bias, xp=xp)
        return xp.reshape(scores, (*h.shape[:-1], self.vocabulary_size))

    def forward(
        self,
        inputs: Array,
        h0: Array,
        /,
        *,
        masks: Sequence[Array] = (),
        keep_tape: bool = True,
    ) -> tuple[Array, Array, ModelTape | None]:
        """Run over a chunk of text.

        Parameters
        ----------
        inputs : integer array, (T, N)
            Characters as indices into the vocabulary, time first, N streams side by side.
        h0 : array, (layers, N, H)
            States before the chunk.
        masks : sequence of array, (T, N, H)
            What each layer's output is multiplied by: dropout masks, scaled. Empty for none.
        keep_tape : bool
            Whether a backward will follow.

        Returns
        -------
        logits : array, (T, N, V)
            Of the character after each input.
        h_last : array, (layers, N, H)
            States after the chunk.
        tape : ModelTape or None
        """
        xp = self.xp
        like = self.params["output.bias"]
        classes = xp.arange(self.vocabulary_size, dtype=inputs.dtype, device=backend.device(like))
        x = xp.astype(inputs[..., None] == classes, like.dtype)
        h, h_last, tape = stack.forward(
            self.gru,
            x,
            h0,
            lengths=None,
            masks=masks[:-1],
            form=Form(),
            keep_tape=keep_tape,
            owner="CharModel",
            xp=xp,
        )
        mask = masks[-1] if masks else None
        h = h if mask is None else h * mask
        return self.logits(h), h_last, None if tape is None else ModelTape(h, mask, tape)

    def backward(self, tape: ModelTape, dlogits: Array, /) -> dict[str, Array]:
        """Gradients with respect to `params`, given that of the logits (T, N, V)."""
        xp = self.xp
        flat = xp.reshape(dlogits, (-1, self.vocabulary_size))
        dh = xp.reshape(matmul(flat, self.params["output.weight"], xp=xp), tape.h.shape)
        dh = dh if tape.mask is None else dh * tape.mask
        of_layers, _, _ = stack.backward(
            self.gru, tape.gru, dh, None, form=Form(), with_dx=False, owner="CharModel", xp=xp
        )
        gradients = {
            f"{_GRU}{name}_l{layer}": array
            for layer, each in enumerate(of_layers)
            for name, array in each.named().items()
        }
        rows = xp.reshape(tape.h, (-1, self.hidden_size))
        gradients["output.weight"] = matmul(flat.T, rows, xp=xp)
        gradients["output.bias"] = sum_of_rows(flat, xp=xp)
        return gradients
