"""The checkpoint: all that a run needs to go on, in one file of arrays and JSON, no pickle."""

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
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError, DivergenceError
from gru_xp.training.model import CharModel, weight_shapes

FILE = "checkpoint.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = "gru_xp character model 3"
_OF_WEIGHTS = ("model.", "adam.mean.", "adam.square.")
_LONGEST_REASON = 200


class Checkpoint(NamedTuple):
    """What the file holds."""

    config: TrainingConfig
    characters: str
    """The vocabulary."""
    arrays: dict[str, np.ndarray[Any, Any]]

    def arrays_like(self, like: dict[str, Array], /, *, prefix: str = "") -> dict[str, Array]:
        """Copy the arrays of these names, `prefix` put before, to where those of `like` are.

        Raises
        ------
        CheckpointError
            If one is missing or has another shape.
        """
        return {
            name: transfer.from_numpy(
                self._array(prefix + name, tuple(array.shape)), Place.of(array)
            )
            for name, array in like.items()
        }

    def numbers(self, name: str, /, *, count: int) -> list[float]:
        """Return a few numbers that were kept together.

        Raises
        ------
        CheckpointError
            If they are missing or another number of them.
        """
        numbers: list[float] = self._array(name, (count,)).tolist()
        return numbers

    def history(self, name: str, /, *, columns: int) -> tuple[list[float], ...]:
        """Return the columns of a table of numbers that grows with the run.

        Raises
        ------
        CheckpointError
            If it is missing or has another number of columns.
        """
        table = self._array(name, (-1, columns))
        return tuple(table[:, column].tolist() for column in range(columns))

    def model(self, backend_name: str, /) -> CharModel:
        """Return the model, on any backend.

        Its weights are of the dtype that it was trained in where the backend has that, else
        float32.

        Raises
        ------
        CheckpointError
            If an array is missing or has another shape.
        BackendError
            If the backend is not usable here.
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
        """Return an array after a look at its shape, in which -1 stands for any size."""
        array = self.arrays.get(name)
        if array is None:
            raise CheckpointError(f"{FILE} is no readable checkpoint: it lacks {name}")
        if not _fits(array.shape, shape):
            raise CheckpointError(
                f"{FILE} is no readable checkpoint: {name} has shape {array.shape}, not {shape}"
            )
        return array


def exists(folder: Path, /) -> bool:
    """Whether a folder holds a checkpoint, readable or not."""
    return (folder / FILE).exists()


def save(folder: Path, checkpoint: Checkpoint, /) -> None:
    """Write the checkpoint, and the configuration beside it, which is for people to read.

    Raises
    ------
    DivergenceError
        If a number of it is not finite.
    CheckpointError
        If it names so many texts and layers that it could not be read again.
    OSError
        If it cannot be written. In all cases the old checkpoint is as it was.
    """
    from safetensors.numpy import save as serialise

    if lost := _not_finite(checkpoint.arrays):
        steps = len(checkpoint.arrays["losses"])
        raise DivergenceError(
            f"{lost} is not finite after step {steps}, and is not saved: a smaller learning rate "
            "may keep it finite"
        )
    config = checkpoint.config.to_json()
    # In one entry: safetensors writes several in a random order, equal runs equal bytes.
    metadata = {_FORMAT: json.dumps({"config": config, "characters": checkpoint.characters})}
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    data = serialise(arrays, metadata)
    if int.from_bytes(data[:8], "little") > LARGEST_HEADER:
        raise CheckpointError(
            f"{folder / FILE} could not be read again: its header, with the names of "
            f"{len(config['texts'])} texts and {config['layers']} layers, would be longer than "
            f"{LARGEST_HEADER >> 20} MiB: fewer of either, or texts joined to one, will do"
        )
    write_whole(folder / FILE, data)
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2).encode() + b"\n")


def load(folder: Path, /) -> Checkpoint:
    """Read what `save` wrote.

    What a file says of itself is not believed: its tensors are held against its configuration
    before any is read, so that no more memory is taken than the file is large.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is cut off, or not one of ours, or not of finite numbers.
    OSError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        raise CheckpointError(f"{folder} holds no model: there is no {FILE}")
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
        why = str(error) if len(str(error)) <= _LONGEST_REASON else type(error).__name__
        raise CheckpointError(f"{path} is no readable checkpoint: {why}") from error
    return Checkpoint(config, characters, arrays)


def _described(text: str) -> tuple[TrainingConfig, str]:
    """Return the configuration and the characters of the vocabulary."""
    # Ours has two objects and a list, whatever the strings hold. Many objects, empty ones even,
    # would take many times the memory of their text.
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    if bare.count("{") > 2 or bare.count("[") > 1:
        raise ValueError("its description is no configuration")
    fields = json.loads(text)
    config, characters = TrainingConfig.from_json(fields["config"]), fields["characters"]
    if not isinstance(characters, str) or characters != "".join(sorted(set(characters))):
        raise ValueError("its vocabulary is none")
    return config, characters


def shapes(config: TrainingConfig, characters: str, /) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays of a run's checkpoint; -1 stands for a length that grows."""
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
    """Hold names, shapes and dtypes of what a file has against what its run would have."""
    names = list(file.keys())
    if len(names) < config.layers:  # before so many names are made
        raise ValueError(f"it has {len(names)} arrays for {config.layers} layers")
    expected = shapes(config, characters)
    if set(names) != set(expected):
        odd = sorted(set(names) ^ set(expected))[0]
        raise ValueError(f"it {'lacks' if odd in expected else 'has an unknown array'} {odd[:99]}")
    for name, shape in expected.items():
        view = file.get_slice(name)
        got = tuple(view.get_shape())
        if view.get_dtype() not in ("F32", "F64") or not _fits(got, shape):
            raise ValueError(f"{name} is of shape {got}, {view.get_dtype()}, not {shape}, F32")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size in (-1, length) for length, size in zip(shape, wanted, strict=True)
    )


def _not_finite(arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    """Name of an array that holds a number which is not finite; empty if there is none."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


def _check_numbers(arrays: dict[str, np.ndarray[Any, Any]], config: TrainingConfig) -> None:
    if lost := _not_finite(arrays):
        raise ValueError(f"{lost} holds numbers that are not finite")
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
        raise ValueError("its counts do not fit each other")
