"""CharModel: a character-level language model on a GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Namespace
from gru_xp.core import parameters, stack
from gru_xp.core.loop import PLAIN
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.products import matmul, sum_of_rows
from gru_xp.core.stack import GRUTape

_GRU = "gru."
"""What the names of the GRU's weights start with."""


class ModelTape(NamedTuple):
    """What the backward pass of a chunk needs of its forward pass."""

    h: Array
    """What went into the projection, (T, N, H)."""
    mask: Array | None
    """What it had been multiplied by."""
    gru: GRUTape


def weight_shapes(
    vocabulary_size: int, hidden_size: int, layers: int, /
) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights by their names, in the order in which they are drawn."""
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (vocabulary_size, hidden_size)}
    for layer in range(layers):
        width = hidden_size if layer else vocabulary_size
        of_layer = parameters.shapes(width, hidden_size)
        shapes |= {f"{_GRU}{name}_l{layer}": shape for name, shape in of_layer.items()}
    return shapes | {"output.bias": (vocabulary_size,)}


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
        place: Place,
    ) -> Self:
        """Draw all weights from U(-1/sqrt(H), 1/sqrt(H)); the output's bias starts at zero.

        They are drawn on the host: one seed gives the same weights on every backend.
        """
        shapes = weight_shapes(vocabulary_size, hidden_size, layers)
        bias = shapes.pop("output.bias")
        params = parameters.initial(shapes, hidden_size, place, rng=rng)
        params["output.bias"] = place.xp.zeros(bias, dtype=place.dtype, device=place.device)
        return cls(params)

    @property
    def place(self) -> Place:
        """Where the weights are."""
        return Place.of(self.params["output.bias"])

    @property
    def xp(self) -> Namespace:
        """Namespace of the weights' library."""
        return self.place.xp

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
        place, shape = self.place, (self.layers, rows, self.hidden_size)
        return place.xp.zeros(shape, dtype=place.dtype, device=place.device)

    def indices(self, host: np.ndarray[Any, Any], /) -> Array:
        """Copy indices into the vocabulary to where the weights are, as int32."""
        place = self.place
        return transfer.from_numpy(host, place._replace(dtype=place.xp.int32))

    def logits(self, h: Array, /) -> Array:
        """Logits (..., V) of the next character, of states (..., H)."""
        place = self.place
        xp = place.xp
        rows = xp.reshape(h, (-1, self.hidden_size))
        weight, bias = self.params["output.weight"], self.params["output.bias"]
        scores = matmul(rows, weight.T, bias, place=place)
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
        place = self.place
        xp = place.xp
        classes = xp.arange(self.vocabulary_size, dtype=inputs.dtype, device=place.device)
        x = xp.astype(inputs[..., None] == classes, place.dtype)
        h, h_last, tape = stack.forward(
            self.gru,
            x,
            h0,
            PLAIN,
            Form(),
            masks=masks[:-1],
            keep_tape=keep_tape,
            owner="CharModel",
            place=place,
        )
        mask = masks[-1] if masks else None
        h = h if mask is None else h * mask
        return self.logits(h), h_last, None if tape is None else ModelTape(h, mask, tape)

    def backward(self, tape: ModelTape, dlogits: Array, /) -> dict[str, Array]:
        """Gradients with respect to `params`, given that of the logits (T, N, V)."""
        place = self.place
        xp = place.xp
        flat = xp.reshape(dlogits, (-1, self.vocabulary_size))
        dh = xp.reshape(matmul(flat, self.params["output.weight"], place=place), tape.h.shape)
        dh = dh if tape.mask is None else dh * tape.mask
        of_layers, _, _ = stack.backward(
            self.gru,
            tape.gru,
            dh,
            None,
            PLAIN,
            Form(),
            with_dx=False,
            owner="CharModel",
            place=place,
        )
        gradients = {
            f"{_GRU}{name}_l{layer}": array
            for layer, each in enumerate(of_layers)
            for name, array in each.named().items()
        }
        rows = xp.reshape(tape.h, (-1, self.hidden_size))
        gradients["output.weight"] = matmul(flat.T, rows, place=place)
        gradients["output.bias"] = sum_of_rows(flat, place=place)
        return gradients
