"""CharModel: a character-level language model with GRU layers."""

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
"""Prefix of the names of the GRU's weights."""


class ModelTape(NamedTuple):
    """Values of the forward pass of a chunk that its backward pass needs."""

    mask: Array | None
    """Dropout mask of the last layer's output."""
    gru: GRUTape


def weight_shapes(
    vocabulary_size: int, hidden_size: int, layers: int, /
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by name, in the order in which they are drawn."""
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (vocabulary_size, hidden_size)}
    for layer in range(layers):
        width = hidden_size if layer else vocabulary_size
        of_layer = parameters.shapes(width, hidden_size)
        shapes |= {f"{_GRU}{name}_l{layer}": shape for name, shape in of_layer.items()}
    return shapes | {"output.bias": (vocabulary_size,)}


class CharModel:
    """Predicts each character from the previous ones: one-hot input, GRU layers, a projection.

    Parameters
    ----------
    params : dict of arrays
        For each layer k, ``gru.weight_ih_lk`` of shape (3H, V) in the first layer and (3H, H) in
        the others, ``gru.weight_hh_lk`` (3H, H), ``gru.bias_ih_lk`` and ``gru.bias_hh_lk`` (3H,).
        Also ``output.weight`` (V, H) and ``output.bias`` (V,). All have the same library, device
        and dtype. They are stored without a copy, and no method changes them.

    Attributes
    ----------
    params : dict of arrays
        Can be assigned; training replaces all weights at every update.
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
        """Draw all weights from U(-1/sqrt(H), 1/sqrt(H)), except the output bias, which is zero.

        They are drawn on the host, so that a seed gives the same weights on every backend.
        """
        shapes = weight_shapes(vocabulary_size, hidden_size, layers)
        bias = shapes.pop("output.bias")
        params = parameters.initial(shapes, hidden_size, place, rng=rng)
        params["output.bias"] = place.xp.zeros(bias, dtype=place.dtype, device=place.device)
        return cls(params)

    @property
    def place(self) -> Place:
        """Place of the weights."""
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
        """Weights of the GRU layers in the form that `gru_xp.functional` takes."""
        return [
            GRUParams(*(self.params[f"{_GRU}{name}_l{layer}"] for name in GRUParams._fields))
            for layer in range(self.layers)
        ]

    @property
    def vocabulary_size(self) -> int:
        """Number of classes, V."""
        return int(self.params["output.weight"].shape[0])

    @property
    def hidden_size(self) -> int:
        """Number of hidden units, H."""
        return int(self.params["output.weight"].shape[1])

    def start(self, rows: int, /) -> Array:
        """Return the states (layers, rows, H) before the first character, which are zero."""
        place, shape = self.place, (self.layers, rows, self.hidden_size)
        return place.xp.zeros(shape, dtype=place.dtype, device=place.device)

    def indices(self, host: np.ndarray[Any, Any], /) -> Array:
        """Copy indices into the vocabulary to the place of the weights, as int32."""
        place = self.place
        return transfer.from_numpy(host, place._replace(dtype=place.xp.int32))

    @property
    def projection(self) -> Projection:
        """Weights of the projection onto the vocabulary."""
        return Projection(self.params["output.weight"], self.params["output.bias"])

    def logits(self, h: Array, /) -> Array:
        """Return the logits (..., V) of the next character for states (..., H)."""
        xp = self.xp
        scores = self.projection.logits(xp.reshape(h, (-1, self.hidden_size)))
        return xp.reshape(scores, (*h.shape[:-1], self.vocabulary_size))

    def losses(self, h: Array, targets: Array, /) -> Array:
        """Return the cross-entropy in nats of the predictions of states (..., H).

        It has the shape of `targets`. The logits are computed block by block and not kept.
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
        """Run the model over a chunk of text.

        Parameters
        ----------
        inputs : integer array, (T, N)
            Characters of N streams as indices into the vocabulary, time first.
        h0 : array, (layers, N, H)
            States before the chunk.
        masks : sequence of array, (T, N, H)
            Scaled dropout masks by which the output of each layer is multiplied. Empty for none.
        keep_tape : bool
            Whether to return a tape, which `loss_and_gradients` needs.

        Returns
        -------
        h : array, (T, N, H)
            States of the last layer, which predict the character after each input.
        h_last : array, (layers, N, H)
            States after the chunk.
        tape : ModelTape or None
            Values for the backward pass, or None if `keep_tape` is False.
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
        """Return the cross-entropy of a chunk and its gradients.

        Parameters
        ----------
        h : array, (T, N, H)
            The states returned by `forward`.
        tape : ModelTape
            The tape returned by `forward`.
        targets : integer array, (T, N)
            The characters to be predicted.
        scale : float
            Factor of the gradients, applied at the logits.

        Returns
        -------
        losses : array, (T, N)
            Cross-entropy in nats; float32 for 16-bit weights.
        gradients : dict of arrays
            Gradients of the sum of the losses with respect to `params`, times `scale`; float32 for
            16-bit weights.
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
