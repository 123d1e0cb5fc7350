"""What a training run says of itself, before and after."""

from __future__ import annotations

import math
from pathlib import Path

from gru_xp.training import checkpoint, memory, plot, sampling
from gru_xp.training.compression import compressed_bits
from gru_xp.training.trainer import Trainer

_SAMPLE_LENGTH = 300
_SAMPLE_TEMPERATURE = 0.7
_LAST = 50  # steps, whose loss is that of the end
_WORSE = 0.02
"""By how many bits per character the end may lie above the best before that is worth a word."""


def beginning(trainer: Trainer, /) -> str:
    """Say what is learnt by what."""
    config, corpus = trainer.config, trainer.corpus
    source = ", ".join(config.texts) or "Python's language reference"
    weights = sum(math.prod(array.shape) for array in trainer.model.params.values())
    needed = memory.needed(config, len(trainer.vocabulary))
    return (
        f"text: {source}: {len(corpus.training):,} characters to learn, "
        f"{len(corpus.held_out):,} held out\n"
        f"model: GRU of {config.layers} x {config.hidden_size} units, {weights:,} weights of "
        f"{config.dtype}; {config.steps} steps of {config.batch_size} x {config.seq_len} "
        f"characters; about {memory.shown(needed)} of memory"
    )


def end(trainer: Trainer, out: Path, /) -> str:
    """Give the result of a finished run, beside what compressors reach; a sample; the files."""
    _, bits = trainer.held_out[-1]
    others = "".join(
        f"  {name:<10}{value:.3f}\n" for name, value in compressed_bits(trainer.judged).items()
    )
    written = "".join(
        sampling.sample(
            trainer.model,
            trainer.vocabulary,
            prompt="",
            length=_SAMPLE_LENGTH,
            temperature=_SAMPLE_TEMPERATURE,
            rng=trainer.config.seed,
        )
    )
    return (
        f"\nbits per character of {_judged(trainer)}:\n  {'this GRU':<10}{bits:.3f}\n{others}"
        f"{_advice(trainer)}\n"
        f"a sample:\n{written}\n\n"
        f"in {out}: {checkpoint.FILE} (weights and state), {checkpoint.CONFIG_FILE}, {plot.FILE}\n"
        f"write more with: gru-xp sample --model {out}"
    )


def _judged(trainer: Trainer) -> str:
    """Say what the bits per character are of."""
    part, whole = len(trainer.judged.held_out), len(trainer.corpus.held_out)
    if part == whole:
        return "the held-out text"
    return f"the first {part:,} of the {whole:,} characters held out"


def _advice(trainer: Trainer) -> str:
    """Say what to change where the held-out text shows that something went wrong."""
    _, bits = trainer.held_out[-1]
    best_step, best = min(trainer.held_out, key=lambda each: each[1])
    if bits > math.log2(len(trainer.vocabulary)):
        return "this is worse than guessing: a smaller --lr may help\n"
    learnt = sum(trainer.losses[-_LAST:]) / len(trainer.losses[-_LAST:])
    if best < bits - _WORSE and learnt < best:
        return (
            f"at step {best_step} it was {best:.3f}: the model has learnt its text by heart since; "
            "fewer --steps, --dropout or more text may help\n"
        )
    return ""
