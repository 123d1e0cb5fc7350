"""CharModel: a character-level language model on a GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.dtypes import at_least_float32
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array, Namespace
from gru_xp.core import parameters, stack
from gru_xp.core.loop import PLAIN
from gru_xp.core.parameters import Form, GRUParams
from gru_xp.core.stack import GRUTape
from gru_xp.training.projection import Projection

_GRU = "gru."
"""What the names of the GRU's weights start with."""


class ModelTape(NamedTuple):
    """What the backward pass of a chunk needs of its forward pass."""

    mask: Array | None
    """What the last layer's output was multiplied by."""
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

    @property
    def projection(self) -> Projection:
        """Weights of the projection onto the vocabulary."""
        return Projection(self.params["output.weight"], self.params["output.bias"])

    def logits(self, h: Array, /) -> Array:
        """Logits (..., V) of the next character, of states (..., H)."""
        xp = self.xp
        scores = self.projection.logits(xp.reshape(h, (-1, self.hidden_size)))
        return xp.reshape(scores, (*h.shape[:-1], self.vocabulary_size))

    def losses(self, h: Array, targets: Array, /) -> Array:
        """Cross-entropy in nats, in the shape of `targets`, of what states (..., H) predict.

        The logits are not kept, nor ever all there.
        """
        xp = self.xp
        rows = xp.reshape(h, (-1, self.hidden_size))
        losses = self.projection.losses(rows, xp.reshape(targets, (-1,)))
        return xp.reshape(losses, targets.shape)

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
        h : array, (T, N, H)
            The last layer's states, which predict the character after each input.
        h_last : array, (layers, N, H)
            States after the chunk.
        tape : ModelTape or None
        """
        h, h_last, tape = stack.forward(
            self.gru,
            inputs,
            h0,
            PLAIN,
            Form(),
            masks=masks[:-1],
            one_hot=True,
            keep_tape=keep_tape,
            owner="CharModel",
            place=self.place,
        )
        mask = masks[-1] if masks else None
        h = h if mask is None else h * mask
        return h, h_last, None if tape is None else ModelTape(mask, tape)

    def loss_and_gradients(
        self, h: Array, tape: ModelTape, targets: Array, /, *, scale: float = 1.0
    ) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy of a chunk, and its gradients.

        Parameters
        ----------
        h : array, (T, N, H)
            As `forward` returned it.
        tape : ModelTape
            As `forward` returned it.
        targets : integer array, (T, N)
            The characters that came.
        scale : float
            What the gradients are multiplied by, from the logits on.

        Returns
        -------
        losses : array, (T, N)
            In nats; float32 for weights of 16 bits.
        gradients : dict of arrays
            Of the sum of the losses, with respect to `params`, times `scale`; float32 for weights
            of 16 bits.
        """
        place = self.place
        xp = place.xp
        losses, dh, of_output = self.projection.losses_and_gradients(
            xp.reshape(h, (-1, self.hidden_size)), xp.reshape(targets, (-1,)), scale=scale
        )
        dh = xp.reshape(dh, h.shape)
        of_layers, _, _ = stack.backward(
            self.gru,
            tape.gru,
            dh if tape.mask is None else dh * tape.mask,
            None,
            PLAIN,
            Form(),
            with_dx=False,
            owner="CharModel",
            place=place,
        )
        gradients = {
            f"{_GRU}{name}_l{layer}": at_least_float32(array, xp=xp)
            for layer, each in enumerate(of_layers)
            for name, array in each.named().items()
        }
        gradients["output.weight"], gradients["output.bias"] = of_output
        return xp.reshape(losses, targets.shape), gradients
