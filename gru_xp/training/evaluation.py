"""Evaluation of a model: bits per character of held-out text."""

from __future__ import annotations

import math

import numpy as np

from gru_xp import to_numpy
from gru_xp.training.batches import Indices, side_by_side
from gru_xp.training.model import CharModel
from gru_xp.training.text import UNKNOWN_BITS, Corpus, Vocabulary

_STREAM_LENGTH = 1000
_MOST_STREAMS = 16
_CHUNK = 256

PLACES = _MOST_STREAMS * _CHUNK
"""Maximum number of characters evaluated at once."""

_EVALUATIONS = 5  # number of evaluations in a run; the last is at its end
# Characters evaluated in all, as a share of those trained on. Evaluating a character takes about a
# third of the time of training on one.
_SHARE = 0.25
_LEAST = 4000  # minimum number of characters in an evaluation


def is_judged_after(step: int, steps: int, /) -> bool:
    """Whether a run of `steps` steps is evaluated after this step, counted from 1."""
    return step * _EVALUATIONS // steps > (step - 1) * _EVALUATIONS // steps


def judged_part(corpus: Corpus, /, *, trained: int) -> Corpus:
    """Shorten the held-out text so that the evaluations take about a tenth of a run's time.

    Parameters
    ----------
    corpus : Corpus
        The whole corpus.
    trained : int
        Number of characters that the run reads, including repetitions.

    Returns
    -------
    Corpus
        The corpus with the beginning of the held-out text: at least 4000 characters, or all if
        there are fewer.
    """
    most = max(_LEAST, int(_SHARE * trained) // _EVALUATIONS)
    return corpus._replace(held_out=corpus.held_out[:most])


def held_out_bits(model: CharModel, vocabulary: Vocabulary, corpus: Corpus, /) -> float:
    """Return the bits per character of the whole held-out text.

    The text is read in parallel streams, one per 1000 characters but at most 16. Each starts from a
    zero state, so the figure is slightly worse than with a single stream. A character that is not
    in the vocabulary costs the bits of the model's prediction for the unknown character plus
    `UNKNOWN_BITS`, the bits of an arbitrary code point.
    """
    text = vocabulary.encode(corpus.training[-1] + corpus.held_out)
    inputs, targets = text[:-1], text[1:]
    streams = min(max(1, len(targets) // _STREAM_LENGTH), _MOST_STREAMS)
    nats = _total_loss(model, *side_by_side(inputs, targets, streams=streams))
    unknown = int(np.count_nonzero(targets == Vocabulary.UNKNOWN))
    return (nats / math.log(2) + unknown * UNKNOWN_BITS) / len(targets)


def _total_loss(model: CharModel, inputs: Indices, targets: Indices) -> float:
    h = model.start(inputs.shape[1])
    total = 0.0
    for start in range(0, inputs.shape[0], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        states, h, _ = model.forward(model.indices(inputs[chunk]), h, keep_tape=False)
        of_chunk = model.losses(states, model.indices(targets[chunk]))
        total += float(np.sum(to_numpy(of_chunk), dtype=np.float64))
    return total
