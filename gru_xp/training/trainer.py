"""Trainer: a training run in memory, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import numpy as np

from gru_xp.arrays import dtypes, transfer
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.training import optimizer
from gru_xp.training.batches import Streams
from gru_xp.training.checkpoint import Checkpoint
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import DivergenceError
from gru_xp.training.evaluation import held_out_bits, is_judged_after, judged_part
from gru_xp.training.loss_scale import LossScale, unscaled
from gru_xp.training.model import CharModel
from gru_xp.training.text import Corpus, Vocabulary

# The best values of those tried with the default options on the default text.
MAX_NORM = 1.0
WEIGHT_DECAY = 0.12
WARM_UP_SHARE = 0.05


class Trainer:
    """Trains a `CharModel` by truncated backpropagation through time with Adam.

    Each step reads the next chunk of every stream and starts from the state after the previous
    chunk. On one machine, runs with the same configuration and corpus give bitwise equal weights,
    however often they are stopped, saved with `checkpoint` and continued with `resume`.

    In float16, a step whose gradients overflow is skipped: it reads its chunk and counts in the
    schedule like any other step, but the weights and Adam's state do not change, and the scale of
    the loss is halved.

    Parameters
    ----------
    config : TrainingConfig
        Options of the run.
    corpus : Corpus
        Training and held-out text.

    Attributes
    ----------
    model : CharModel
        The model that is trained.
    vocabulary : Vocabulary
        The characters of the training text.
    judged : Corpus
        The corpus with the part of its held-out text on which the run is evaluated.
    losses : list of float
        Loss of each step before its update, in bits per character. Skipped steps are included.
    held_out : list of (int, float)
        Number of steps, and bits per character of the held-out text in `judged` after them.

    Raises
    ------
    BackendError
        If the backend is not usable or does not support the dtype of the configuration.
    TextError
        If the training text is too short for the batch size and sequence length.
    """

    def __init__(self, config: TrainingConfig, corpus: Corpus) -> None:
        self.config = config
        self.corpus = corpus
        self.judged = judged_part(corpus, trained=config.steps * self.chunk_size)
        place = Place.named(config.backend, dtype=config.dtype)
        self.vocabulary = Vocabulary(corpus.training)
        self._streams = Streams(
            self.vocabulary.encode(corpus.training),
            batch_size=config.batch_size,
            seq_len=config.seq_len,
        )
        self.model = CharModel.initial(
            len(self.vocabulary),
            config.hidden_size,
            config.layers,
            rng=config.seed,
            place=place,
        )
        self._adam = optimizer.adam_start(self.model.params, xp=place.xp)
        self._loss_scale = LossScale.start(config.dtype)
        self._h = self.model.start(config.batch_size)
        self.losses: list[float] = []
        self.held_out: list[tuple[int, float]] = []

    @property
    def steps_done(self) -> int:
        """Number of completed steps, including skipped ones."""
        return len(self.losses)

    @property
    def finished(self) -> bool:
        """Whether all steps of the configuration are completed."""
        return self.steps_done >= self.config.steps

    @property
    def chunk_size(self) -> int:
        """Number of characters that a step reads."""
        return self.config.batch_size * self.config.seq_len

    def step(self) -> float:
        """Perform or skip one update, and evaluate the model after every fifth of the run.

        Returns
        -------
        float
            Loss of the chunk before the update, in bits per character.

        Raises
        ------
        DivergenceError
            If the loss is not finite, or the gradients are not finite even with a loss scale of 1.
            In that case the state of the run is unchanged.
        """
        step, config, model = self.steps_done, self.config, self.model
        scale = self._loss_scale
        inputs, targets = (model.indices(part) for part in self._streams.chunk(step))
        loss, gradients, h = loss_and_gradients(
            model, inputs, targets, self._h, masks=self._masks(step), loss_scale=scale.value
        )
        norm = optimizer.global_norm(gradients, xp=model.xp)
        # Copy both to the host at once, because each copy waits for the device.
        loss_and_norm = transfer.to_numpy(model.xp.stack([loss, norm]))
        bits = float(loss_and_norm[0]) / math.log(2)
        if not math.isfinite(bits):
            raise DivergenceError(
                f"expected a finite loss, got {bits} in step {step}. Try a smaller learning rate"
            )
        if scale.dynamic and not math.isfinite(loss_and_norm[1]):
            if scale.value <= 1:
                raise DivergenceError(
                    f"the gradients of step {step} overflow {config.dtype} even with a loss scale "
                    f"of {scale.value:g}. Try a smaller learning rate"
                )
            self._loss_scale = scale.after_overflow()
        else:
            self._update(gradients, norm)
            self._loss_scale = scale.after_update()
        self._h = h
        self.losses.append(bits)
        if is_judged_after(self.steps_done, config.steps):
            bits_then = held_out_bits(model, self.vocabulary, self.judged)
            self.held_out.append((self.steps_done, bits_then))
        return bits

    def _update(self, gradients: dict[str, Array], norm: Array) -> None:
        """Clip the gradients, and replace the weights and Adam's state by those after an update."""
        step, config, model = self.steps_done, self.config, self.model
        model.params, self._adam = optimizer.adam(
            model.params,
            gradients,
            self._adam,
            learning_rate=optimizer.cosine_learning_rate(
                step,
                steps=config.steps,
                warm_up=int(WARM_UP_SHARE * config.steps),
                peak=config.learning_rate,
            ),
            scale=optimizer.clipping_scale(norm, MAX_NORM, xp=model.xp),
            weight_decay=WEIGHT_DECAY,
            xp=model.xp,
        )

    def _masks(self, step: int) -> list[Array]:
        """Draw the dropout masks of a step on the host, seeded with the number of the step.

        A resumed run thus needs no state of a generator, and all backends use the same masks.
        """
        config, model = self.config, self.model
        if not config.dropout:
            return []
        keep = 1 - config.dropout
        generator = np.random.default_rng([config.seed, step])
        shape = (config.seq_len, config.batch_size, config.hidden_size)
        return [
            transfer.from_numpy(
                (generator.random(shape, dtype=np.float32) < keep) / keep, model.place
            )
            for _ in range(config.layers)
        ]

    def checkpoint(self) -> Checkpoint:
        """Copy the state of the run: everything that `resume` needs except the corpus.

        The masters of 16-bit weights are stored instead of the weights, which are rounded from
        them. No array has a 16-bit dtype.
        """
        xp, weights = self.model.xp, {**self.model.params, **self._adam.masters}
        named = {
            **{f"model.{name}": array for name, array in weights.items()},
            **{f"adam.mean.{name}": array for name, array in self._adam.mean.items()},
            **{f"adam.square.{name}": array for name, array in self._adam.square.items()},
            "state": dtypes.at_least_float32(self._h, xp=xp),  # NumPy has no bfloat16
        }
        arrays = {name: transfer.to_numpy(array) for name, array in named.items()}
        arrays["adam.steps"] = np.asarray([self._adam.steps], dtype=np.float64)
        arrays["loss_scale"] = np.asarray(self._loss_scale[:2], dtype=np.float64)
        arrays["losses"] = np.asarray(self.losses, dtype=np.float64).reshape(-1, 1)
        arrays["held_out"] = np.asarray(self.held_out, dtype=np.float64).reshape(-1, 2)
        return Checkpoint(self.config, self.vocabulary.characters, arrays)

    @classmethod
    def resume(cls, checkpoint: Checkpoint, corpus: Corpus) -> Self:
        """Continue a run with the corpus with which it was started.

        Raises
        ------
        CheckpointError
            If the arrays of the checkpoint do not match its configuration.
        """
        trainer = cls(checkpoint.config, corpus)
        xp, params, fresh = trainer.model.xp, trainer.model.params, trainer._adam
        weights = checkpoint.arrays_like({**params, **fresh.masters}, prefix="model.")
        (updates,) = checkpoint.numbers("adam.steps", count=1)
        scale, successes = checkpoint.numbers("loss_scale", count=2)
        (losses,) = checkpoint.history("losses", columns=1)
        trainer.losses = losses
        steps, bits = checkpoint.history("held_out", columns=2)
        trainer.held_out = [(int(step), each) for step, each in zip(steps, bits, strict=True)]
        trainer.model.params = {
            name: dtypes.cast(weight, params[name].dtype, xp=xp) for name, weight in weights.items()
        }
        trainer._adam = optimizer.AdamState(
            checkpoint.arrays_like(fresh.mean, prefix="adam.mean."),
            checkpoint.arrays_like(fresh.square, prefix="adam.square."),
            masters={name: weights[name] for name in fresh.masters},
            steps=int(updates),
        )
        trainer._loss_scale = trainer._loss_scale._replace(value=scale, updates=int(successes))
        trainer._h = checkpoint.arrays_like({"state": trainer._h})["state"]
        return trainer


def loss_and_gradients(
    model: CharModel,
    inputs: Array,
    targets: Array,
    h0: Array,
    /,
    *,
    masks: Sequence[Array] = (),
    loss_scale: float = 1.0,
) -> tuple[Array, dict[str, Array], Array]:
    """Return the mean loss of a chunk, its gradients, and the state after the chunk.

    Parameters
    ----------
    model : CharModel
        The model.
    inputs, targets : integer array, (T, N)
        Characters of the chunk, and the characters that follow them.
    h0 : array, (layers, N, H)
        States before the chunk. No gradient flows back through them.
    masks : sequence of array, (T, N, H)
        Scaled dropout masks of the layers' outputs. Empty for none.
    loss_scale : float
        Factor of the gradients during the backward pass. They are divided by it afterwards.

    Returns
    -------
    loss : array, ()
        Mean cross-entropy in nats; float32 for 16-bit weights.
    gradients : dict of arrays
        Gradients by the names of ``model.params``; float32 for 16-bit weights. With a scale, values
        that overflowed in the backward pass are infinite or NaN, without a warning.
    h_last : array, (layers, N, H)
        States after the chunk.
    """
    h, h_last, tape = model.forward(inputs, h0, masks=masks)
    assert tape is not None
    count = inputs.shape[0] * inputs.shape[1]
    # With a loss scale, overflows are expected, so NumPy's warnings are switched off.
    quietly: Literal["ignore"] | None = None if loss_scale == 1 else "ignore"
    with np.errstate(over=quietly, invalid=quietly):
        each, scaled = model.loss_and_gradients(h, tape, targets, scale=loss_scale / count)
    return model.xp.mean(each), unscaled(scaled, loss_scale), h_last
