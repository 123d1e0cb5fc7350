"""The command ``gru-xp bench``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gru_xp.arrays import libraries
from gru_xp.bench.cases import CPU_PRECISIONS, PRECISIONS

# The rest is imported where it is used, so that `gru-xp --help` does not wait for it.

T = TypeVar("T")

_PATH = click.Path(path_type=Path, dir_okay=False)
_LIMIT = 10**6
_RANDOM_LIMIT = 1000
_NO_PEERS = "none"


def _listed(item: Callable[[str], T]) -> Callable[..., tuple[T, ...] | None]:
    """Make a callback that reads items between commas, each once."""

    def read(
        context: click.Context, parameter: click.Parameter, text: str | None
    ) -> tuple[T, ...] | None:
        if text is None:
            return None
        try:
            return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise click.BadParameter(str(error), context, parameter) from None

    return read


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,7}", text) or not 1 <= int(text) <= _LIMIT:
        raise ValueError(f"{text!r} is no integer from 1 to {_LIMIT}.")
    return int(text)


def _size(text: str) -> Any:
    from gru_xp.bench.cases import Size

    parts = text.split("x")
    if len(parts) != 4:
        raise ValueError(f"{text!r} is no size: four integers TxNxIxH, such as 100x8x64x64.")
    try:
        return Size(*map(_count, parts))
    except ValueError as error:
        raise ValueError(f"{text!r} is no size TxNxIxH: {error}") from None


def _peer(text: str) -> str:
    from gru_xp.bench.peers import PEERS

    if text not in (*PEERS, _NO_PEERS):
        raise ValueError(f"{text!r} is none of {', '.join(PEERS)}, {_NO_PEERS}.")
    return text


@click.command()
@click.option(
    "--peers",
    metavar="NAMES",
    callback=_listed(_peer),
    help="Of torch, onnxruntime, jax; or none.  [default: those that are installed]",
)
@click.option(
    "--sizes",
    metavar="TxNxIxH,...",
    callback=_listed(_size),
    help="Steps, rows, inputs and hidden units of the sequences.  [default: six sizes, cupy 20]",
)
@click.option(
    "--random",
    metavar="COUNT",
    type=click.IntRange(min=1, max=_RANDOM_LIMIT),
    help="So many sizes drawn at random in place of --sizes: a table with the worst first.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    help="Of --random: the same sizes again.  [default: 0]",
)
@click.option(
    "--stream",
    is_flag=True,
    help="In place of all else time each step of streams: of one layer, of two of the most units.",
)
@click.option(
    "--steps",
    "cells",
    metavar="H,...",
    callback=_listed(_count),
    help="Hidden units of what makes one step.  [default: 16,64,256,512, streams 16,64, cupy or "
    "random none]",
)
@click.option(
    "--threads",
    metavar="COUNTS",
    callback=_listed(_count),
    help="Numbers of threads, a process each.  [default: 1,2; 1 on one CPU, on cupy, of streams]",
)
@click.option(
    "--backend",
    "name",
    type=click.Choice(["auto", *libraries.NAMESPACES]),
    default="numpy",
    show_default=True,
    help="Array library of gru_xp: cupy meets torch on the GPU, all others run on the CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Of arrays and products; tf32: arrays of float32.  [on a CPU: float32, float64]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1, max=_LIMIT),
    help="Samples of each time; steps of a stream.  [default: 9, of long calls 5; 100000 steps, "
    "of the slower ones fewer]",
)
@click.option("--memory/--no-memory", default=True, help="Measure the peak memory of training too.")
@click.option("--json", "json_path", type=_PATH, metavar="FILE", help="Write all numbers there.")
@click.option(
    "--plot",
    "plot_path",
    type=_PATH,
    metavar="FILE",
    help="Draw the ratios: png, svg; random ones over N and H; of streams a histogram.",
)
def bench(
    peers: tuple[str, ...] | None,
    sizes: tuple[Any, ...] | None,
    random: int | None,
    seed: int | None,
    stream: bool,
    cells: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    name: str,
    precision: str,
    repeats: int | None,
    memory: bool,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Time gru_xp side by side with torch, ONNX Runtime and JAX, where they are installed.

    Forward and training of whole sequences, and of one step, the peak memory of training; or each
    of many steps of a stream, from the median to the slowest. The same weights for all, and what
    they compute is compared first. Progress goes to stderr.
    """
    import json

    from gru_xp.bench import machine, parent, report, tables
    from gru_xp.bench import memory as memory_of
    from gru_xp.bench import peers as others
    from gru_xp.bench.cases import (
        CELLS,
        GPU_SIZES,
        SIZES,
        STREAMS,
        THREADS,
        Job,
        dtype_of,
        random_sizes,
    )
    from gru_xp.files import write_whole

    if stream:
        if sizes is not None or random is not None:
            raise click.UsageError(
                "--stream has no sequences, and no sizes: name units by --steps."
            )
        sizes, cells, memory = (), cells or STREAMS, False
    if random is None and seed is not None:
        raise click.UsageError("--seed is that of --random, which is not there.")
    if random is not None:
        if sizes is not None:
            raise click.UsageError("--sizes names sizes, --random draws them: choose one.")
        sizes, cells = random_sizes(random, seed or 0), cells or ()
    name, _ = libraries.resolve(name)
    on_gpu = name == "cupy"
    if precision not in CPU_PRECISIONS and not on_gpu:
        raise click.UsageError(
            f"--precision {precision} needs --backend cupy: {name} is measured in "
            f"{' and '.join(CPU_PRECISIONS)}"
        )
    if stream and on_gpu:
        raise click.UsageError("--stream times steps on the CPU: choose another --backend.")
    usable = len(machine.cpus())
    threads = threads or THREADS[: 1 if on_gpu or stream else usable]
    if max(threads) > usable:
        raise click.UsageError(f"--threads {max(threads)}: this process can use {usable} CPUs.")
    _check_writable("--json", json_path)
    _check_writable("--plot", plot_path)
    if plot_path is not None:
        _check_format(plot_path)
    asked = None if peers is None else tuple(each for each in peers if each != _NO_PEERS)
    chosen, notes = others.choose(asked, backend=name, dtype=dtype_of(precision), stream=stream)

    job = Job(
        (GPU_SIZES if on_gpu else SIZES) if sizes is None else sizes,
        (() if on_gpu else CELLS) if cells is None else cells,
        threads[0],
        chosen,
        asked is not None,
        name,
        precision,
        repeats,
        stream=stream,
    )
    measured = parent.measure(job, threads)
    weighed = []
    if memory and on_gpu:
        notes.append("no peak memory: what a process holds on the host says nothing of a GPU's")
    elif memory and memory_of.peak() is None:
        notes.append("no peak memory: this platform does not tell it")
    elif memory:
        weighed = parent.measure_memory(job, max(threads))
    document = report.document(measured, weighed, job=job, notes=notes, arguments=sys.argv[1:])
    if json_path is not None:
        write_whole(json_path, f"{json.dumps(document, indent=1)}\n".encode())
    if plot_path is not None:
        from gru_xp.bench import plot

        plain = plot.save if random is None else plot.save_map
        (plot.save_histograms if stream else plain)(document, plot_path)
    tables.show(document, worst_first=random is not None)


def _check_writable(option: str, path: Path | None) -> None:
    """Try the folder before minutes go into a measurement that could not be kept."""
    from gru_xp.files import make_writable_folder

    if path is None:
        return
    if not path.parent.is_dir():
        raise click.UsageError(
            f"{option} {path}: there is no folder {path.parent}: make it, or choose another."
        )
    make_writable_folder(path.parent)


def _check_format(path: Path) -> None:
    from gru_xp.bench.plot import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--plot {path}: its name must end in {', '.join(SUFFIXES)}.")
