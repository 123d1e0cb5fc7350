"""The command ``gru-xp bench``."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gru_xp.arrays import libraries
from gru_xp.bench.cases import CPU_PRECISIONS, PRECISIONS

# Other modules are imported where they are used, so that `gru-xp --help` is fast.

T = TypeVar("T")

_PATH = click.Path(path_type=Path, dir_okay=False)
_LIMIT = 10**6
_RANDOM_LIMIT = 1000
_NO_PEERS = "none"


def _listed(item: Callable[[str], T]) -> Callable[..., tuple[T, ...] | None]:
    """Create a callback that parses comma-separated items and removes repetitions."""

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
        raise ValueError(f"expected an integer from 1 to {_LIMIT}, got {text!r}.")
    return int(text)


def _size(text: str) -> Any:
    from gru_xp.bench.cases import Size

    parts = text.split("x")
    if len(parts) != 4:
        raise ValueError(f"expected four integers TxNxIxH, such as 100x8x64x64, got {text!r}.")
    try:
        return Size(*map(_count, parts))
    except ValueError as error:
        raise ValueError(f"in the size {text!r}: {error}") from None


def _peer(text: str) -> str:
    from gru_xp.bench.peers import PEERS

    if text not in (*PEERS, _NO_PEERS):
        raise ValueError(f"expected one of {', '.join(PEERS)}, {_NO_PEERS}, got {text!r}.")
    return text


@click.command()
@click.option(
    "--peers",
    metavar="NAMES",
    callback=_listed(_peer),
    help="Any of torch, onnxruntime and jax; or none.  [default: the installed ones]",
)
@click.option(
    "--sizes",
    metavar="TxNxIxH,...",
    callback=_listed(_size),
    help="Steps, rows, inputs and hidden units of the sequences.  [default: 6 sizes; 20 on cupy]",
)
@click.option(
    "--random",
    metavar="COUNT",
    type=click.IntRange(min=1, max=_RANDOM_LIMIT),
    help="Draw this many random sizes instead of --sizes; the table shows the worst first.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    help="Seed of --random.  [default: 0]",
)
@click.option(
    "--stream",
    is_flag=True,
    help="Time only streams, each step separately: with one layer, and two for the largest H.",
)
@click.option(
    "--steps",
    "cells",
    metavar="H,...",
    callback=_listed(_count),
    help="Hidden units of the single-step cases.  [default: 16,64,256,512; 16,64 with --stream; "
    "none on cupy or with --random]",
)
@click.option(
    "--threads",
    metavar="COUNTS",
    callback=_listed(_count),
    help="Numbers of threads; one process for each.  [default: 1,2; 1 on one CPU, on cupy and "
    "with --stream]",
)
@click.option(
    "--backend",
    "name",
    type=click.Choice(["auto", *libraries.NAMESPACES]),
    default="numpy",
    show_default=True,
    help="Array library of gru_xp. cupy is compared with torch on the GPU; all others run on the "
    "CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Precision of arrays and products; tf32 uses float32 arrays.  [on a CPU: float32, "
    "float64]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1, max=_LIMIT),
    help="Samples of each time, or steps of a stream.  [default: 9 samples, 5 of long calls; "
    "100000 steps, fewer of slow peers]",
)
@click.option(
    "--memory/--no-memory", default=True, help="Also measure the peak memory of training."
)
@click.option(
    "--json", "json_path", type=_PATH, metavar="FILE", help="Write all numbers to a file."
)
@click.option(
    "--plot",
    "plot_path",
    type=_PATH,
    metavar="FILE",
    help="Plot the ratios (.png, .svg, .pdf): bars; points over N and H with --random; histograms "
    "with --stream.",
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
    """Compare the speed of gru_xp with torch, ONNX Runtime and JAX, if they are installed.

    Measures forward and training of whole sequences and of single steps, and the peak memory of
    training; or with --stream, the time of each of many steps of a stream, from the median to the
    slowest. All libraries use the same weights, and their results are compared first. Progress is
    printed to stderr.
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
    from gru_xp.bench.errors import BenchError
    from gru_xp.files import write_whole
    from gru_xp.messages import reason_of

    if stream:
        if sizes is not None or random is not None:
            raise click.UsageError(
                "--stream cannot be combined with --sizes or --random. Choose the hidden units "
                "with --steps."
            )
        sizes, cells, memory = (), cells or STREAMS, False
    if random is None and seed is not None:
        raise click.UsageError("--seed requires --random.")
    if random is not None:
        if sizes is not None:
            raise click.UsageError("--sizes and --random cannot be combined.")
        sizes, cells = random_sizes(random, seed or 0), cells or ()
    name, _ = libraries.resolve(name)
    on_gpu = name == "cupy"
    if precision not in CPU_PRECISIONS and not on_gpu:
        raise click.UsageError(
            f"--precision {precision} requires --backend cupy. With --backend {name}, use "
            f"{' or '.join(CPU_PRECISIONS)}."
        )
    if stream and on_gpu:
        raise click.UsageError("--stream does not support --backend cupy. Choose another backend.")
    usable = len(machine.cpus())
    threads = threads or THREADS[: 1 if on_gpu or stream else usable]
    if max(threads) > usable:
        raise click.UsageError(
            f"expected at most {usable} --threads, the number of usable CPUs, got {max(threads)}."
        )
    if json_path and plot_path and os.path.realpath(json_path) == os.path.realpath(plot_path):
        raise click.UsageError("--json and --plot must not name the same file.")
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
        notes.append("peak memory is not measured: it is not supported on a GPU")
    elif memory and memory_of.peak() is None:
        notes.append("peak memory is not measured: this platform does not report it")
    elif memory:
        weighed = parent.measure_memory(job, max(threads))
    document = report.document(measured, weighed, job=job, notes=notes, arguments=sys.argv[1:])
    try:
        if json_path is not None:
            write_whole(json_path, f"{json.dumps(document, indent=1)}\n".encode())
        if plot_path is not None:
            from gru_xp.bench import plot

            plain = plot.save if random is None else plot.save_map
            (plot.save_histograms if stream else plain)(document, plot_path)
    except ValueError as error:  # such as an unknown MPLBACKEND
        raise BenchError(f"the plot was not saved: {reason_of(error)}") from error
    finally:  # the times are shown even if they cannot be written
        tables.show(document, worst_first=random is not None)


def _check_writable(option: str, path: Path | None) -> None:
    """Check that a file can be written before minutes are spent on a measurement."""
    from gru_xp.files import check_regular, make_writable_folder

    if path is None:
        return
    if not path.parent.is_dir():
        raise click.UsageError(
            f"{option} {path}: the folder {path.parent} does not exist. Create it, or choose "
            "another."
        )
    target = Path(os.path.realpath(path))
    if target.exists():
        check_regular(target)
    make_writable_folder(target.parent)


def _check_format(path: Path) -> None:
    from gru_xp.bench.plot import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise click.UsageError(
            f"--plot: expected a file name ending in {', '.join(SUFFIXES)}, got {path}."
        )
