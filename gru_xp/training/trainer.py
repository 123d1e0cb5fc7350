"""Trainer: a training run in memory, one update at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from gru_xp import backend
from gru_xp.training import losses, optimizer
from gru_xp.training.batches import Streams
from gru_xp.training.checkpoint import Checkpoint
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import DivergenceError
from gru_xp.training.evaluation import held_out_bits
from gru_xp.training.model import CharModel
from gru_xp.training.text import Corpus, Vocabulary
from gru_xp.typing import Array

# With the default options, these were the best of those tried on the default text.
MAX_NORM = 1.0
WEIGHT_DECAY = 0.12
WARM_UP_SHARE = 0.05
_EVALUATIONS = 5


class Trainer:
    """Trains a `CharModel` by truncated back-propagation through time and Adam.

    Each step reads the next chunk of every stream, from the state in which the last chunk left it.
    Runs of one configuration and corpus, on one machine, reach the same weights bit for bit,
    however often they are stopped, saved by `checkpoint` and continued by `resume`.

    Parameters
    ----------
    config : TrainingConfig
    corpus : Corpus

    Attributes
    ----------
    model : CharModel
    vocabulary : Vocabulary
        The characters of the training text.
    losses : list of float
        Of each step, in bits per character, before its update.
    held_out : list of (int, float)
        Steps made, and bits per character of the held-out text then.

    Raises
    ------
    BackendError
        If the configuration's backend is not usable here.
    TextError
        If the training text is shorter than a chunk.
    """

    def __init__(self, config: TrainingConfig, corpus: Corpus) -> None:
        self.config = config
        self.corpus = corpus
        xp = backend.namespace(config.backend)
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
            xp=xp,
            dtype=xp.float32,
        )
        self._adam = optimizer.adam_start(self.model.params, xp=xp)
        self._h = self.model.start(config.batch_size)
        self.losses: list[float] = []
        self.held_out: list[tuple[int, float]] = []

    @property
    def steps_done(self) -> int:
        """Number of updates made."""
        return self._adam.steps

    @property
    def finished(self) -> bool:
        """Whether all steps of the configuration are made."""
        return self.steps_done >= self.config.steps

    @property
    def chunk_size(self) -> int:
        """Number of characters that a step reads."""
        return self.config.batch_size * self.config.seq_len

    def step(self) -> float:
        """Make one update, and evaluate after every fifth of the run.

        Returns
        -------
        float
            Loss of the chunk before the update, in bits per character.

        Raises
        ------
        DivergenceError
            If that is no finite number. Then nothing has changed.
        """
        step, config, model = self.steps_done, self.config, self.model
        inputs, targets = (model.indices(part) for part in self._streams.chunk(step))
        loss, gradients, h = loss_and_gradients(
            model, inputs, targets, self._h, masks=self._masks(step)
        )
        bits = float(backend.to_numpy(loss)) / math.log(2)
        if not math.isfinite(bits):
            raise DivergenceError(
                f"the loss of step {step} is {bits}: a smaller learning rate may keep it finite"
            )
        gradients = optimizer.clip_by_global_norm(gradients, MAX_NORM, xp=model.xp)
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
            weight_decay=WEIGHT_DECAY,
            xp=model.xp,
        )
        self._h = h
        self.losses.append(bits)
        if self.finished or self.steps_done % max(1, config.steps // _EVALUATIONS) == 0:
            bits_then = held_out_bits(model, self.vocabulary, self.corpus)
            self.held_out.append((self.steps_done, bits_then))
        return bits

    def _masks(self, step: int) -> list[Array]:
        """Dropout masks of a step: drawn on the host, and from the step's number alone.

        So a resumed run needs no generator's state, and every backend has the same masks.
        """
        config, model = self.config, self.model
        if not config.dropout:
            return []
        keep = 1 - config.dropout
        generator = np.random.default_rng([config.seed, step])
        shape = (config.seq_len, config.batch_size, config.hidden_size)
        return [
            backend.from_numpy(
                (generator.random(shape, dtype=np.float32) < keep) / keep,
                xp=model.xp,
                dtype=model.xp.float32,
            )
            for _ in range(config.layers)
        ]

    def checkpoint(self) -> Checkpoint:
        """Copy the state of the run, all that `resume` needs but the corpus."""
        named = {
            **{f"model.{name}": array for name, array in self.model.params.items()},
            **{f"adam.mean.{name}": array for name, array in self._adam.mean.items()},
            **{f"adam.square.{name}": array for name, array in self._adam.square.items()},
            "state": self._h,
        }
        arrays = {name: backend.to_numpy(array) for name, array in named.items()}
        arrays["losses"] = np.asarray(self.losses, dtype=np.float64).reshape(-1, 1)
        arrays["held_out"] = np.asarray(self.held_out, dtype=np.float64).reshape(-1, 2)
        return Checkpoint(self.config, self.vocabulary.characters, arrays)

    @classmethod
    def resume(cls, checkpoint: Checkpoint, corpus: Corpus) -> Self:
        """Continue a run; `corpus` is the one that it began with.

        Raises
        ------
        CheckpointError
            If the checkpoint's arrays are not those of its configuration.
        """
        trainer = cls(checkpoint.config, corpus)
        params = trainer.model.params
        (losses,) = checkpoint.history("losses", columns=1)
        trainer.losses = losses
        steps, bits = checkpoint.history("held_out", columns=2)
        trainer.held_out = [(int(step), each) for step, each in zip(steps, bits, strict=True)]
        trainer.model.params = checkpoint.arrays_like(params, prefix="model.")
        trainer._adam = optimizer.AdamState(
            checkpoint.arrays_like(params, prefix="adam.mean."),
            checkpoint.arrays_like(params, prefix="adam.square."),
            steps=len(losses),
        )
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
) -> tuple[Array, dict[str, Array], Array]:
    """Mean loss of a chunk, its gradients, and the state after the chunk.

    Parameters
    ----------
    model : CharModel
    inputs, targets : integer array, (T, N)
    h0 : array, (layers, N, H)
        A constant: no gradient goes back into the chunk before.
    masks : sequence of array, (T, N, H)
        Dropout masks of the layers' outputs, scaled; empty for none.

    Returns
    -------
    loss : array, ()
        Mean cross-entropy in nats.
    gradients : dict of arrays
        By the names of ``model.params``.
    h_last : array, (layers, N, H)
    """
    logits, h_last, tape = model.forward(inputs, h0, masks=masks)
    assert tape is not None
    each, dlogits = losses.cross_entropy(logits, targets, xp=model.xp)
    count = inputs.shape[0] * inputs.shape[1]
    return model.xp.mean(each), model.backward(tape, dlogits / count), h_last
