"""What a model is worth: bits per character of text that it has not seen."""

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
"""Number of characters judged at once, at most."""

_EVALUATIONS = 5  # of a run, the last at its end
_SHARE = 0.25  # of the characters trained on, that are judged; one takes about a third of the time
_LEAST = 4000  # characters, however short the run


def is_judged_after(step: int, steps: int, /) -> bool:
    """Whether a run of so many steps is judged after this one, counted from 1."""
    return step * _EVALUATIONS // steps > (step - 1) * _EVALUATIONS // steps


def judged_part(corpus: Corpus, /, *, trained: int) -> Corpus:
    """Leave of the held-out text what is judged five times in about a tenth of a run's time.

    Parameters
    ----------
    corpus : Corpus
    trained : int
        Characters that the run reads, repeats counted.

    Returns
    -------
    Corpus
        With the beginning of the held-out text, at least 4000 characters; all of it where that
        is no more.
    """
    most = max(_LEAST, int(_SHARE * trained) // _EVALUATIONS)
    return corpus._replace(held_out=corpus.held_out[:most])


def held_out_bits(model: CharModel, vocabulary: Vocabulary, corpus: Corpus, /) -> float:
    """Bits per character of the held-out text, every one of its characters predicted.

    The text is read in long streams, one for each 1000 characters but at most 16, which start
    from a zero state and carry it to their end. So the figure is a little worse than that of one
    stream. A character that the vocabulary lacks costs what the model gives the unknown, and the
    bits of any code point.
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
