"""Text printed before and after a training run."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from gru_xp.messages import printable
from gru_xp.training import checkpoint, memory, plot, sampling
from gru_xp.training.compression import compressed_bits
from gru_xp.training.trainer import Trainer

_SAMPLE_LENGTH = 300
_SAMPLE_TEMPERATURE = 0.7
_LAST = 50  # number of steps over which the final training loss is averaged
_WORSE = 0.02
"""Excess of the final over the best held-out loss, in bits per character, that causes advice."""


def beginning(trainer: Trainer, /) -> str:
    """Describe the text, the model and the run."""
    config, corpus = trainer.config, trainer.corpus
    source = printable(", ".join(config.texts)) or "Python's language reference"
    weights = sum(math.prod(array.shape) for array in trainer.model.params.values())
    needed = memory.needed(config, len(trainer.vocabulary))
    return (
        f"text: {source}: {len(corpus.training):,} characters for training, "
        f"{len(corpus.held_out):,} held out\n"
        f"model: GRU with {config.layers} x {config.hidden_size} units, {weights:,} weights in "
        f"{config.dtype}; {config.steps} steps of {config.batch_size} x {config.seq_len} "
        f"characters; about {memory.shown(needed)} of memory"
    )


def end(trainer: Trainer, out: Path, /) -> str:
    """Report the result of a finished run and of the compressors, a sample and the files."""
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
        f"files in {out}: {checkpoint.FILE} (weights and state), {checkpoint.CONFIG_FILE}"
        f"{f', {plot.FILE}' if (out / plot.FILE).is_file() else ''}\n"
        f"to write more text, run: gru-xp sample --model {shlex.quote(str(out))}"
    )


def _judged(trainer: Trainer) -> str:
    """Name the text to which the bits per character apply."""
    part, whole = len(trainer.judged.held_out), len(trainer.corpus.held_out)
    if part == whole:
        return "the held-out text"
    return f"the first {part:,} of {whole:,} held-out characters"


def _advice(trainer: Trainer) -> str:
    """Return advice if the held-out loss shows a problem; otherwise an empty string."""
    _, bits = trainer.held_out[-1]
    best_step, best = min(trainer.held_out, key=lambda each: each[1])
    if bits > math.log2(len(trainer.vocabulary)):
        return "this is worse than guessing. Try a smaller --lr\n"
    learnt = sum(trainer.losses[-_LAST:]) / len(trainer.losses[-_LAST:])
    if best < bits - _WORSE and learnt < best:
        return (
            f"at step {best_step} it was {best:.3f}. The model has overfitted since then. Try "
            "fewer --steps, --dropout or more text\n"
        )
    return ""
