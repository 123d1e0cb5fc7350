"""Text that a model writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gru_xp.arrays import transfer
from gru_xp.arrays.place import Place
from gru_xp.training.errors import DivergenceError
from gru_xp.training.model import CharModel
from gru_xp.training.sampling import sample
from gru_xp.training.text import Vocabulary
from tests.library import Library

VOCABULARY = Vocabulary("\nabcdef")


def build(lib: Library | None = None) -> CharModel:
    model = CharModel.initial(len(VOCABULARY), 6, 2, rng=5, place=Place.named("numpy"))
    scaled = {name: 4 * array for name, array in model.params.items()}
    # The unknown would be the likeliest by far, were it ever written.
    scaled["output.bias"] = scaled["output.bias"] + np.float32([9] + 7 * [0])
    return CharModel({name: lib.array(a, "float32") if lib else a for name, a in scaled.items()})


def write(model: CharModel, **options: Any) -> str:
    given = {"prompt": "", "length": 40, "temperature": 1.0, "rng": 0, **options}
    return "".join(sample(model, VOCABULARY, **given))


def test_every_library_writes_the_same(lib: Library) -> None:
    assert write(build(lib)) == write(build())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
def test_a_model_whose_outputs_are_not_finite_is_an_error(value: float) -> None:
    params = build().params
    large = {name: np.full_like(params[name], value) for name in ("output.weight", "output.bias")}
    with pytest.raises(DivergenceError, match="an output of the model is not finite"):
        write(CharModel(params | large))


def test_temperature_zero_takes_the_likeliest_of_the_whole_past() -> None:
    model, prompt = build(), "abca"
    written = write(model, prompt=prompt, temperature=0.0, length=12)
    read = VOCABULARY.encode(prompt + written)
    states, _, _ = model.forward(read[:, None], model.start(1))
    known = transfer.to_numpy(model.logits(states))[len(prompt) - 1 : -1, 0, 1:]
    assert written == "".join(VOCABULARY.character(1 + k) for k in np.argmax(known, axis=-1))


def test_an_empty_prompt_is_read_as_a_newline() -> None:
    model = build()
    assert write(model, temperature=0.0) == write(model, prompt="\n", temperature=0.0)
    assert write(model, temperature=0.0) != write(model, prompt="a", temperature=0.0)


def test_draws_follow_the_softmax_of_the_tempered_logits() -> None:
    model = build()
    states, _, _ = model.forward(VOCABULARY.encode("a")[:, None], model.start(1))
    weights = np.exp(transfer.to_numpy(model.logits(states))[0, 0, 1:].astype(np.float64) / 2.0)
    generator = np.random.default_rng(1)
    first = [
        write(model, prompt="a", length=1, temperature=2.0, rng=generator) for _ in range(3000)
    ]
    shares = [first.count(character) / 3000 for character in VOCABULARY.characters]
    np.testing.assert_allclose(shares, weights / np.sum(weights), atol=0.04)


def test_seeds_decide_and_the_unknown_is_never_written() -> None:
    model = build()
    assert write(model, rng=1) == write(model, rng=1) != write(model, rng=2)
    assert len(write(model, length=17)) == 17
    assert set(write(model, temperature=100.0, length=500)) == set(VOCABULARY.characters)


def test_unknown_characters_of_a_prompt_are_read() -> None:
    assert len(write(build(), prompt="жab")) == 40


@pytest.mark.parametrize("temperature", [1e-300, 1e-9])
def test_a_tiny_temperature_is_as_good_as_zero(temperature: float) -> None:
    model = build()
    assert write(model, temperature=temperature) == write(model, temperature=0.0)
