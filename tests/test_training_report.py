"""What a finished run says of itself."""

from __future__ import annotations

import pytest

from gru_xp.training import report, text
from gru_xp.training.config import TrainingConfig
from gru_xp.training.trainer import Trainer


@pytest.mark.parametrize(
    ("held_out", "loss", "wanted"),
    [
        ([(1, 2.0), (2, 1.5)], 1.0, ""),
        ([(1, 1.51), (2, 1.52)], 1.0, ""),
        (
            [(1, 1.4), (2, 2.0)],
            1.0,
            "at step 1 it was 1.400. The model has overfitted since then",
        ),
        ([(1, 1.4), (2, 2.0)], 1.5, ""),  # nor does it know the text that it learns
        ([(1, 3.0), (2, 99.0)], 1.0, "worse than guessing. Try a smaller --lr"),
    ],
)
def test_advice_is_given_where_the_held_out_text_asks_for_it(
    held_out: list[tuple[int, float]], loss: float, wanted: str
) -> None:
    config = TrainingConfig(hidden_size=2, steps=2, batch_size=1, seq_len=4)
    trainer = Trainer(config, text.split("to be, or not to be: " * 10))
    trainer.held_out, trainer.losses = held_out, [loss, loss]
    advice = report._advice(trainer)
    assert wanted in advice
    assert bool(advice) == bool(wanted)
