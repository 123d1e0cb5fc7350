"""A run in memory: the same on every library, continued bit for bit, judged correctly."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gru_xp import GRUCell
from gru_xp.arrays import transfer
from gru_xp.training import text
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError, DivergenceError, TextError
from gru_xp.training.evaluation import held_out_bits, is_judged_after
from gru_xp.training.model import CharModel
from gru_xp.training.text import UNKNOWN_BITS, Corpus
from gru_xp.training.trainer import Trainer
from tests.library import Library

TEXT = "the quick brown fox jumps over the lazy dog; " * 30
CONFIG = TrainingConfig(
    hidden_size=8, steps=10, batch_size=3, seq_len=5, learning_rate=0.01, backend="numpy"
)


def config(lib: Library | None = None, **changes: Any) -> TrainingConfig:
    name = lib.name if lib else "numpy"
    return TrainingConfig(**{**CONFIG.to_json(), "texts": (), "backend": name, **changes})


def advance(trainer: Trainer, steps: int) -> Trainer:
    for _ in range(steps):
        trainer.step()
    return trainer


def numbers(trainer: Trainer) -> dict[str, Any]:
    return trainer.checkpoint().arrays


def bits_by_cell(trainer: Trainer) -> float:
    """Held-out bits per character, one float64 cell step a character."""
    params = {
        name: transfer.to_numpy(array).astype(np.float64)
        for name, array in trainer.model.params.items()
    }
    cell = GRUCell(len(trainer.vocabulary), trainer.config.hidden_size, dtype="float64").eval()
    cell.load_state_dict({name: params[f"gru.{name}_l0"] for name in cell.parameters()})
    read = trainer.vocabulary.encode(trainer.corpus.training[-1] + trainer.corpus.held_out)
    h, total = None, 0.0
    for character, after in itertools.pairwise(read):
        h = cell(np.eye(len(trainer.vocabulary))[character], h)
        logits = params["output.weight"] @ h + params["output.bias"]
        shares = np.exp(logits) / np.sum(np.exp(logits))
        total -= math.log2(shares[after])
    return total / len(trainer.corpus.held_out)


def test_every_library_trains_alike(lib: Library) -> None:
    ours = advance(Trainer(config(lib), text.split(TEXT)), 10)
    wanted = advance(Trainer(config(), text.split(TEXT)), 10)
    assert ours.finished
    np.testing.assert_allclose(ours.losses, wanted.losses, atol=1e-4)
    np.testing.assert_allclose(ours.held_out, wanted.held_out, atol=1e-4)


def test_dropout_drops_its_share_in_training_alone() -> None:
    trainer = Trainer(config(layers=2, dropout=0.25, hidden_size=64), text.split(TEXT))
    masks = trainer._masks(3)
    assert len(masks) == 2
    assert (masks[0] != masks[1]).any()
    assert set(np.unique(masks)) == {0, np.float32(1 / 0.75)}
    assert np.mean(np.asarray(masks) == 0) == pytest.approx(0.25, abs=0.03)
    assert (trainer._masks(4)[0] != masks[0]).any()
    plain = Trainer(config(layers=2, hidden_size=64), text.split(TEXT))
    assert trainer.step() != plain.step()
    trainer.model.params = plain.model.params
    bits = [held_out_bits(each.model, each.vocabulary, each.corpus) for each in (trainer, plain)]
    assert bits[0] == bits[1]


def test_training_learns() -> None:
    trainer = advance(Trainer(config(steps=150, learning_rate=0.03), text.split(TEXT)), 150)
    assert trainer.losses[0] > 4
    assert np.mean(trainer.losses[-10:]) < 1.5
    assert trainer.held_out[-1][1] < 1.5


@pytest.mark.parametrize("changes", [{}, {"layers": 2, "dropout": 0.25}])
def test_a_resumed_run_reaches_the_same_bits(lib: Library, changes: dict[str, Any]) -> None:
    corpus = text.split(TEXT)
    whole = advance(Trainer(config(lib, **changes), corpus), 10)
    first = advance(Trainer(config(lib, **changes), corpus), 5)
    second = Trainer.resume(first.checkpoint(), corpus)
    assert second.steps_done == 5
    assert not second.finished
    wanted, got = numbers(whole), numbers(advance(second, 5))
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_a_checkpoint_is_no_view_of_the_run() -> None:
    trainer = advance(Trainer(config(), text.split(TEXT)), 1)
    kept = trainer.checkpoint()
    before = {name: array.copy() for name, array in kept.arrays.items()}
    advance(trainer, 2)
    for name, array in before.items():
        np.testing.assert_array_equal(kept.arrays[name], array)


def test_the_state_is_carried_from_chunk_to_chunk() -> None:
    trainer = Trainer(config(learning_rate=1e-30), text.split(TEXT))
    advance(trainer, 2)
    inputs = np.concatenate([trainer._streams.chunk(step)[0] for step in (0, 1)])
    _, h_last, _ = trainer.model.forward(inputs, trainer.model.start(3))
    np.testing.assert_allclose(trainer._h, h_last, atol=1e-6)


def test_held_out_bits_are_those_of_single_steps() -> None:
    trainer = advance(Trainer(config(), text.split(TEXT)), 10)
    bits = held_out_bits(trainer.model, trainer.vocabulary, trainer.corpus)
    assert bits == trainer.held_out[-1][1]
    assert bits == pytest.approx(bits_by_cell(trainer), abs=1e-5)


def test_long_held_out_text_in_streams_has_nearly_the_bits_of_one() -> None:
    corpus = Corpus(TEXT, (TEXT * 7)[:8_999])
    trainer = advance(Trainer(config(), corpus), 10)
    bits = held_out_bits(trainer.model, trainer.vocabulary, corpus)
    assert bits == pytest.approx(bits_by_cell(trainer), abs=2e-3)


def test_a_run_is_judged_by_what_a_tenth_of_its_time_allows() -> None:
    corpus = Corpus(TEXT, (TEXT * 60)[:20_000])
    trainer = Trainer(config(), corpus)  # so short that the least is too much
    assert trainer.judged == Corpus(TEXT, corpus.held_out[:4000])
    config_ = config(steps=8_000)
    trained = config_.steps * trainer.chunk_size
    judged = Trainer(config_, corpus).judged
    assert judged == Corpus(TEXT, corpus.held_out[: trained // 20])
    assert 4000 < len(judged.held_out) < 20_000
    assert Trainer(config(steps=100_000), corpus).judged == corpus
    bits = advance(trainer, 2).held_out[-1][1]
    assert bits == held_out_bits(trainer.model, trainer.vocabulary, trainer.judged)
    assert bits != held_out_bits(trainer.model, trainer.vocabulary, corpus)


@pytest.mark.parametrize("steps", [1, 3, 5, 9, 14, 2300, 2304])
def test_a_run_is_judged_five_times_at_equal_distances(steps: int) -> None:
    judged = [step for step in range(1, steps + 1) if is_judged_after(step, steps)]
    assert judged[-1] == steps
    assert len(judged) == min(5, steps)
    assert set(np.diff([0, *judged])) <= {steps // len(judged), -(-steps // len(judged))}


@pytest.mark.parametrize(("length", "streams"), [(1, 1), (1_999, 1), (8_999, 8), (40_000, 16)])
def test_long_text_is_judged_in_streams(
    monkeypatch: pytest.MonkeyPatch, length: int, streams: int
) -> None:
    corpus = Corpus(TEXT, (TEXT * 60)[:length])
    trainer, seen = Trainer(config(), corpus), set()
    forward = CharModel.forward

    def noted(model: CharModel, inputs: Any, *arguments: Any, **options: Any) -> Any:
        seen.add(inputs.shape[1])
        return forward(model, inputs, *arguments, **options)

    monkeypatch.setattr(CharModel, "forward", noted)
    held_out_bits(trainer.model, trainer.vocabulary, corpus)
    assert seen == {streams}


def test_an_unknown_character_costs_its_code_point_besides() -> None:
    trainer = Trainer(config(), text.split(TEXT))
    known = held_out_bits(trainer.model, trainer.vocabulary, Corpus(TEXT, "q"))
    unknown = held_out_bits(trainer.model, trainer.vocabulary, Corpus(TEXT, "ж"))
    # An untrained model gives all characters about the same share.
    assert unknown - known == pytest.approx(UNKNOWN_BITS, abs=1.5)
    assert pytest.approx(20.09, abs=0.01) == UNKNOWN_BITS


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    trainer = advance(Trainer(config(), text.split(TEXT)), 1)
    trainer.model.params["output.bias"] = trainer.model.params["output.bias"] * np.float32("nan")
    with pytest.raises(DivergenceError, match="expected a finite loss, got nan in step 1"):
        trainer.step()
    assert trainer.steps_done == 1


def test_a_text_shorter_than_a_chunk_is_refused() -> None:
    with pytest.raises(TextError, match="expected a training text of at least"):
        Trainer(config(batch_size=1000), text.split(TEXT))


@pytest.mark.parametrize(
    "name",
    ["losses", "state", "loss_scale", "model.gru.weight_hh_l0", "adam.square.output.bias"],
)
@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_a_checkpoint_with_odd_arrays_is_refused(name: str, damage: str) -> None:
    corpus = text.split(TEXT)
    kept = advance(Trainer(config(), corpus), 1).checkpoint()
    kept.arrays[name] = np.zeros((7, 7), dtype=np.float32)
    if damage == "missing":
        del kept.arrays[name]
    with pytest.raises(CheckpointError, match=name):
        Trainer.resume(kept, corpus)
