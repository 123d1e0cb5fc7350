"""The checkpoint: all that a run needs to go on, in one file of arrays and JSON, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.arrays import transfer
from gru_xp.arrays.libraries import BackendError
from gru_xp.arrays.place import Place
from gru_xp.arrays.typing import Array
from gru_xp.files import write_whole
from gru_xp.training.config import TrainingConfig
from gru_xp.training.errors import CheckpointError
from gru_xp.training.model import CharModel

FILE = "checkpoint.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = "gru_xp character model 2"


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
        if len(array.shape) != len(shape) or any(
            wanted not in (-1, size) for size, wanted in zip(array.shape, shape, strict=True)
        ):
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
    OSError
        If it cannot be written. Then the old checkpoint is as it was.
    """
    from safetensors.numpy import save as serialise

    config = checkpoint.config.to_json()
    # In one entry: safetensors writes several in a random order, equal runs equal bytes.
    metadata = {_FORMAT: json.dumps({"config": config, "characters": checkpoint.characters})}
    arrays = {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}
    write_whole(folder / FILE, serialise(arrays, metadata))
    write_whole(folder / CONFIG_FILE, json.dumps(config, indent=2).encode() + b"\n")


def load(folder: Path, /) -> Checkpoint:
    """Read what `save` wrote.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is cut off, or not one of ours.
    OSError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        raise CheckpointError(f"{folder} holds no model: there is no {FILE}")
    path.open("rb").close()  # safetensors has no errors of its own for what cannot be opened
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _FORMAT not in metadata:
                raise CheckpointError(f"{path} is not a checkpoint of this version of gru-xp")
            fields = json.loads(metadata[_FORMAT])
            return Checkpoint(
                TrainingConfig.from_json(fields["config"]),
                str(fields["characters"]),
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            )
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is no readable checkpoint: {error}") from error
