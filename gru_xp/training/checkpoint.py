"""The checkpoint: the state of a run in one file of arrays and JSON, without pickle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.files import (
    LARGEST_HEADER,
    check_regular,
    check_safetensors_header,
    write_whole,
)
from gru_xp.messages import reason_of
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError, DivergenceError
from gru_xp.training.model import CharModel, weight_shapes

FILE = "checkpoint.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = "gru_xp character model 3"
_OF_WEIGHTS = ("model.", "adam.mean.", "adam.square.")


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    config: TrainingConfig
    characters: str
    """The characters of the vocabulary."""
    arrays: dict[str, np.ndarray[Any, Any]]

    def arrays_like(self, like: dict[str, Array], /, *, prefix: str = "") -> dict[str, Array]:
        """Copy the arrays named ``prefix + name`` to the places of the arrays `like`.

        Raises
        ------
        CheckpointError
            If an array is missing or has the wrong shape.
        """
        return {
            name: transfer.from_numpy(
                self._array(prefix + name, tuple(array.shape)), Place.of(array)
            )
            for name, array in like.items()
        }

    def numbers(self, name: str, /, *, count: int) -> list[float]:
        """Return the `count` numbers of a 1-D array.

        Raises
        ------
        CheckpointError
            If the array is missing or has another length.
        """
        numbers: list[float] = self._array(name, (count,)).tolist()
        return numbers

    def history(self, name: str, /, *, columns: int) -> tuple[list[float], ...]:
        """Return the columns of a table that grows during the run.

        Raises
        ------
        CheckpointError
            If the table is missing or has another number of columns.
        """
        table = self._array(name, (-1, columns))
        return tuple(table[:, column].tolist() for column in range(columns))

    def model(self, backend_name: str, /) -> CharModel:
        """Return the model on a backend.

        The weights have the dtype in which the model was trained, or float32 if the backend does
        not support it.

        Raises
        ------
        CheckpointError
            If an array is missing or has the wrong shape.
        BackendError
            If the backend is not usable.
        """
        try:
            place = Place.named(backend_name, dtype=self.config.dtype)
        except BackendError:
            place = Place.named(backend_name)
        model = CharModel.initial(
            1 + len(self.characters),
            self.config.hidden_size,
            self.config.layers,
            rng=0,
            place=place,
        )
        model.params = self.arrays_like(model.params, prefix="model.")
        return model

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return an array after checking its shape, in which -1 stands for any size."""
        array = self.arrays.get(name)
        if array is None:
            raise CheckpointError(f"{FILE} is not a valid checkpoint: it has no array {name}")
        if not _fits(array.shape, shape):
            raise CheckpointError(
                f"{FILE} is not a valid checkpoint: expected {name} of shape {shape}, got "
                f"{array.shape}"
            )
        return array


def exists(folder: Path, /) -> bool:
    """Whether a folder contains a checkpoint, whether or not it is valid."""
    return (folder / FILE).exists()


def save(folder: Path, checkpoint: Checkpoint, /) -> None:
    """Write the checkpoint, and a separate file with the configuration for users to read.

    If an error is raised, the old checkpoint is unchanged.

    Raises
    ------
    DivergenceError
        If an array contains a number that is not finite.
    CheckpointError
        If the names of texts and layers make the header of the file too long to be read again.
    OSError
        If the checkpoint cannot be written.
    """
    from safetensors.numpy import save as serialise

    if lost := _not_finite(checkpoint.arrays):
        steps = len(checkpoint.arrays["losses"])
        raise DivergenceError(
            f"{lost} is not finite after step {steps}, so the checkpoint was not saved. Try a "
            "smaller learning rate"
        )
    config = checkpoint.config.to_json()
    # A single entry, because safetensors writes several in random order, and files of equal runs
    # should be equal.
    metadata = {_FORMAT: json.dumps({"config": config, "characters": checkpoint.characters})}
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    data = serialise(arrays, metadata)
    if int.from_bytes(data[:8], "little") > LARGEST_HEADER:
        raise CheckpointError(
            f"{folder / FILE} was not saved: with the names of {len(config['texts'])} texts and "
            f"{config['layers']} layers, its header would exceed {LARGEST_HEADER >> 20} MiB. Use "
            "fewer layers, or fewer texts, for example by joining them"
        )
    write_whole(folder / FILE, data)
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2).encode() + b"\n")


def load(folder: Path, /) -> Checkpoint:
    """Read a checkpoint that `save` wrote.

    The tensors are checked against the configuration before they are read, so that an invalid file
    cannot cause more memory to be allocated than its own size.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or the file is truncated, is not a checkpoint of gru-xp or
        contains numbers that are not finite.
    OSError
        If the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        raise CheckpointError(f"expected a folder with a model, got {folder}, which has no {FILE}")
    check_regular(path)
    try:
        check_safetensors_header(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _FORMAT not in metadata:
                raise CheckpointError(f"{path} is not a checkpoint of this version of gru-xp")
            config, characters = _described(metadata[_FORMAT])
            _check_tensors(file, config, characters)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_numbers(arrays, config)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a valid checkpoint: {reason_of(error)}") from error
    return Checkpoint(config, characters, arrays)


def _described(text: str) -> tuple[TrainingConfig, str]:
    """Return the configuration and the characters of the vocabulary."""
    # A valid description has two objects and one list. More of them, even empty ones, are refused,
    # because parsing them takes many times the memory of the text.
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    if bare.count("{") > 2 or bare.count("[") > 1:
        raise ValueError("its description is not a configuration")
    fields = json.loads(text)
    config, characters = TrainingConfig.from_json(fields["config"]), fields["characters"]
    if not isinstance(characters, str) or characters != "".join(sorted(set(characters))):
        raise ValueError("its vocabulary is not a sorted string of distinct characters")
    return config, characters


def shapes(config: TrainingConfig, characters: str, /) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays in a run's checkpoint; -1 stands for a growing length."""
    weights = weight_shapes(1 + len(characters), config.hidden_size, config.layers)
    return {
        **{f"{kind}{name}": shape for kind in _OF_WEIGHTS for name, shape in weights.items()},
        "state": (config.layers, config.batch_size, config.hidden_size),
        "adam.steps": (1,),
        "loss_scale": (2,),
        "losses": (-1, 1),
        "held_out": (-1, 2),
    }


def _check_tensors(file: Any, config: TrainingConfig, characters: str) -> None:
    """Check names, shapes and dtypes of a file's tensors against its configuration."""
    names = list(file.keys())
    if len(names) < config.layers:  # checked before that many names are generated
        raise ValueError(f"it has only {len(names)} arrays for {config.layers} layers")
    expected = shapes(config, characters)
    if set(names) != set(expected):
        odd = sorted(set(names) ^ set(expected))[0]
        raise ValueError(f"it has {'no' if odd in expected else 'an unknown'} array {odd[:99]}")
    for name, shape in expected.items():
        view = file.get_slice(name)
        got = tuple(view.get_shape())
        if view.get_dtype() not in ("F32", "F64") or not _fits(got, shape):
            raise ValueError(
                f"expected {name} of shape {shape} and dtype F32 or F64, got shape {got} and "
                f"dtype {view.get_dtype()}"
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (-1, length) for length, size in zip(shape, wanted, strict=True)
    )


def _not_finite(arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    """Return the name of an array with a number that is not finite; empty if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


def _check_numbers(arrays: dict[str, np.ndarray[Any, Any]], config: TrainingConfig) -> None:
    if lost := _not_finite(arrays):
        raise ValueError(f"{lost} contains numbers that are not finite")
    (updates,), (scale, successes) = arrays["adam.steps"], arrays["loss_scale"]
    made, told = len(arrays["losses"]), arrays["held_out"][:, 0]
    sound = (
        made <= config.steps
        and 0 <= updates <= made
        and scale > 0
        and successes >= 0
        and all(float(each).is_integer() for each in (updates, successes, *told))
        and (made < config.steps or len(told) > 0)
    )
    if not sound:
        raise ValueError("its counts of steps and updates or its loss scale are invalid")
