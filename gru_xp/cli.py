"""The command line ``gru-xp`` with the commands train, sample, info, check and bench."""
# ruff: noqa: E402 - required packages are checked before they are imported

from __future__ import annotations

import math
import os
import platform
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

_EXTRA = ("click", "filelock", "matplotlib", "rich", "safetensors", "threadpoolctl")
if any(util.find_spec(name) is None for name in _EXTRA):
    # Only the command gru-xp imports this module, so it may exit with a one-line message here.
    print(
        "gru-xp: error: the command line requires more packages: pip install 'gru-xp[cli]'",
        file=sys.stderr,
    )
    raise SystemExit(2)

import click

from gru_xp.arrays import dtypes, libraries
from gru_xp.arrays.dtypes import dtype_name
from gru_xp.backend_info import backends
from gru_xp.bench.command import bench
from gru_xp.bench.errors import BenchError
from gru_xp.core import accelerators
from gru_xp.core.threads import get_num_threads, set_num_threads
from gru_xp.files import check_regular, locked
from gru_xp.messages import printable, reason_of
from gru_xp.training.config import SEED_LIMIT, TrainingConfig
from gru_xp.training.errors import SessionError, TrainingError

INTERRUPTED = 128 + 2
"""Exit status after SIGINT."""

_DEFAULTS = TrainingConfig()
_FOLDER = Path("gru-xp-model")


class _Rate(click.FloatRange):
    """A finite number greater than zero (or equal to it with `or_zero`) and less than `end`."""

    def __init__(self, *, or_zero: bool = False, end: float | None = None) -> None:
        super().__init__(min=0, min_open=not or_zero, max=end, max_open=end is not None)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert an option's text to a number; reject NaN and infinity, which a range accepts."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


_SIZE = click.IntRange(min=1, max=10**6)
_THREADS = click.IntRange(min=1, max=4096)
_SEED = click.IntRange(min=0, max=SEED_LIMIT - 1)
_PATH = click.Path(path_type=Path)


class _Named(click.Path):
    """A path that is not empty. An empty path would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert an option's text to a path."""
        if not str(value):
            self.fail("expected a path, got an empty string (use . for this folder).", param, ctx)
        return super().convert(value, param, ctx)


_NAMED = _Named(path_type=Path)
_BACKEND = click.Choice(["auto", *libraries.NAMESPACES])
_DTYPE = click.Choice(dtypes.NAMES)


def _of_run(flag: str, name: str, kind: click.ParamType[Any], text: str) -> Callable[..., Any]:
    """Create an option for a field of the configuration; its value is None if not given."""
    text = f"{text}  [default: {getattr(_DEFAULTS, name)}]"
    return click.option(flag, name, type=kind, help=text)


@click.group(
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="gru-xp", message="%(prog)s %(version)s")
def cli() -> None:
    """Gated recurrent units for any array library."""


@cli.command()
@click.argument("texts", metavar="[TEXT]...", nargs=-1, type=_PATH)
@_of_run("--hidden-size", "hidden_size", _SIZE, "Number of hidden units per layer.")
@_of_run("--layers", "layers", _SIZE, "Number of GRU layers.")
@_of_run("--dropout", "dropout", _Rate(or_zero=True, end=1), "Dropout probability.")
@_of_run("--steps", "steps", _SIZE, "Number of weight updates.")
@_of_run("--batch-size", "batch_size", _SIZE, "Number of positions of the text read in parallel.")
@_of_run("--seq-len", "seq_len", _SIZE, "Number of characters read at each position per step.")
@_of_run("--lr", "learning_rate", _Rate(), "Initial learning rate. It decreases to zero.")
@_of_run("--seed", "seed", _SEED, "Seed of the initial weights, the dropout and the sample.")
@_of_run("--dtype", "dtype", _DTYPE, "Dtype of the weights and the arithmetic.")
@click.option("--backend", type=_BACKEND, help="Array library.  [default: auto]")
@click.option("--out", type=_NAMED, default=_FOLDER, show_default=True, help="Folder of the model.")
@click.option(
    "--threads",
    type=_THREADS,
    help="Maximum number of threads; does not apply to JAX.  [default: the usable CPUs]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the folder with its options.")
@click.option("--overwrite", is_flag=True, help="Replace the model in the folder.")
def train(
    texts: tuple[Path, ...],
    out: Path,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> int | None:
    """Train a character-level language model on TEXT files.

    Without TEXT files, the model is trained on Python's language reference. The last 5 % of the
    text is held out for evaluation. Ctrl-C, SIGTERM and SIGHUP save the run and stop it.
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite cannot be combined.")
    from gru_xp.training import session

    if resume and not out.is_dir():
        raise SessionError(f"expected a folder with a model, got {out}, which does not exist")
    with locked(out, *session.FILES):
        return _train(texts, out, threads, resume, overwrite, options)


@contextmanager
def _at_most(threads: int | None) -> Iterator[None]:
    """Limit the threads of NumPy's accelerator and of the loaded libraries."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_info, threadpool_limits

    before = get_num_threads()
    set_num_threads(min(threads, before))
    limits: dict[str, int] = {}
    for pool in threadpool_info():
        kind, count = pool["user_api"], min(threads, pool["num_threads"])
        limits[kind] = min(count, limits.get(kind, count))
    try:
        with threadpool_limits(limits):
            yield
    finally:
        set_num_threads(before)


def _train(
    texts: tuple[Path, ...],
    out: Path,
    threads: int | None,
    resume: bool,
    overwrite: bool,
    options: dict[str, Any],
) -> int | None:
    from gru_xp.training import plot, progress, report, session

    given = {name: value for name, value in options.items() if value is not None}
    if texts:
        for path in texts:
            check_regular(path)  # realpath gives a pipe a name that does not exist
        given["texts"] = tuple(map(os.path.realpath, texts))
    reason = "as in the run" if resume else ""
    if not resume or "backend" in given:
        asked = given.get("backend")
        given["backend"], why = libraries.resolve(asked or "auto")
        reason = why if asked else ""
    if resume:
        trainer = session.resume(out, given)
    else:
        trainer = session.begin(replace(_DEFAULTS, **given), out, overwrite=overwrite)

    if trainer.finished:
        print(f"the run in {out} is complete after {trainer.steps_done} steps")
        print(report.end(trainer, out))
        return None
    print(_running(trainer.config.backend, reason))
    print(report.beginning(trainer), flush=True)
    # Limit the threads only now, when the run's array library is loaded.
    number = None
    try:
        with _at_most(threads), progress.shown(trainer) as on_step:
            number = session.run(trainer, out, on_step=on_step)
    except OSError:
        if number is None:
            raise  # otherwise the progress bar failed because its terminal is gone
    if number is not None and number == getattr(signal, "SIGHUP", None):
        _drop_output()  # the terminal is gone
    if trainer.steps_done == 0:
        return _stopped(number, "stopped before the first step, so nothing was saved")
    try:
        plot.save_loss_curve(trainer.losses, trainer.held_out, out)
    except (ImportError, OSError, ValueError) as error:  # such as an unknown MPLBACKEND
        with suppress(OSError):
            (out / plot.FILE).unlink()  # of an earlier run
        print(f"the loss curve was not plotted: {reason_of(error)}", file=sys.stderr)
    if trainer.steps_done < trainer.config.steps:
        return _stopped(
            number,
            f"stopped after step {trainer.steps_done} of {trainer.config.steps} and saved the run\n"
            f"to continue, run: gru-xp train --resume --out {shlex.quote(str(out))}",
        )
    print(report.end(trainer, out))
    return None


def _stopped(number: int | None, message: str) -> int:
    """Print how a run was stopped, and return the exit status, even if nobody reads the message."""
    try:
        print(message, flush=True)
    except BrokenPipeError:
        _drop_output()
    return 128 + (number or signal.SIGINT)


@cli.command()
@click.option(
    "--model", type=_PATH, default=_FOLDER, show_default=True, help="Folder of the model."
)
@click.option("--prompt", default="", help="Text that the model continues.")
@click.option(
    "--length", type=_SIZE, default=500, show_default=True, help="Number of characters to write."
)
@click.option(
    "--temperature",
    type=_Rate(or_zero=True),
    default=0.7,
    show_default=True,
    help="Randomness of the text. 0 always selects the most likely character; larger values give "
    "less likely ones.",
)
@click.option("--seed", type=_SEED, help="Seed of the draws.  [default: random]")
@click.option("--backend", "name", type=_BACKEND, help="Array library.  [default: auto]")
def sample(
    model: Path, prompt: str, length: int, temperature: float, seed: int | None, name: str | None
) -> None:
    """Generate text with a trained model, character by character."""
    from gru_xp.training import checkpoint, sampling
    from gru_xp.training.text import Vocabulary

    asked = name
    name, reason = libraries.resolve(asked or "auto")
    stored = checkpoint.load(model)
    vocabulary = Vocabulary(stored.characters)
    character_model = stored.model(name)
    characters = sampling.sample(
        character_model,
        vocabulary,
        prompt=prompt,
        length=length,
        temperature=temperature,
        rng=seed,
    )
    print(_running(name, reason if asked else ""), file=sys.stderr)
    if (dtype := dtype_name(character_model.params["output.bias"].dtype)) != stored.config.dtype:
        print(f"{name} has no {stored.config.dtype}; {dtype} is used instead", file=sys.stderr)
    if unknown := sorted(set(prompt) - set(vocabulary.characters)):
        listed = " ".join(map(ascii, unknown))
        print(f"characters not in the model's vocabulary: {listed}", file=sys.stderr)
    print(prompt, end="", flush=True)
    for character in characters:
        print(character, end="", flush=True)
    print()


@cli.command()
def info() -> None:
    """Show the versions, backends, devices, accelerators and threads on this machine."""
    from threadpoolctl import threadpool_info

    print(f"python {platform.python_version()}, {platform.platform()}")
    for name in ("gru-xp", "numpy", "array-api-compat", *_EXTRA):
        print(f"{name} {metadata.version(name)}")
    print()
    for each in backends():
        print(f"backend {each.name} {each.version or ''}".rstrip())
        if each.usable:
            print(f"    devices: {', '.join(each.devices)}")
            print(f"    recurrence: {accelerators.running(each.name)}")
            explain = getattr(accelerators.find(each.name).module, "explain", None)
            if explain and accelerators.are_on():
                print(textwrap.indent(explain(), "    "))
        else:
            print(f"    not usable: {each.reason}")
    print(f"auto is {libraries.resolve('auto')[0]}")
    print()
    affinity = getattr(os, "sched_getaffinity", None)  # available on Linux
    usable = len(affinity(0)) if affinity else os.cpu_count()
    print(f"processors: {os.cpu_count()}, usable by this process: {usable}")
    for pool in threadpool_info():
        name = " ".join(filter(None, (pool["internal_api"], pool["version"])))
        print(f"{name}: {pool['num_threads']} threads")
    limits = [f"{name}={value}" for name, value in os.environ.items() if "_NUM_THREADS" in name]
    print(f"limits in the environment: {', '.join(sorted(limits)) or 'none'}")


@cli.command()
@click.option(
    "--backend", "names", type=_BACKEND, multiple=True, help="Backend to check; may be repeated."
)
def check(names: tuple[str, ...]) -> int:
    """Compare forward and backward of every usable backend with a float64 reference."""
    from gru_xp.checking import check_backends

    asked = [libraries.resolve(name) for name in names]
    for name, reason in asked or [
        (name, libraries.unusable(name)) for name in libraries.NAMESPACES
    ]:
        print(f"backend {name}: {reason or 'usable'}")
    results = check_backends([name for name, _ in asked] or None)
    head = ("backend", "device", "dtype", "path", "forward", "backward", "allowed", "")
    rows: list[tuple[str, ...]] = [head]
    for each in results:
        errors = each.forward_error, each.backward_error, each.tolerance
        verdict = "ok" if each.passed else f"FAILED {each.message}".rstrip()
        rows.append((*each[:4], *(f"{error:.1e}" for error in errors), verdict))
    print(_table(rows))
    return 0 if all(each.passed for each in results) else 1


cli.add_command(bench)


def _running(name: str, reason: str) -> str:
    """Describe the backend, the reason for its choice if given, and what runs its time loop."""
    because = f" ({reason})" if reason else ""
    return f"backend {name}{because}; recurrence: {accelerators.running(name)}"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main() -> int:
    """Run the command line. User errors are printed as one line on stderr, with exit status 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - used until the end
        getattr(sys, name).reconfigure(errors="replace")
    try:
        status = cli.main(prog_name="gru-xp", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # for example from `| head`; click returns the same status
        _drop_output()
        return 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        return _failed(error.format_message())
    except MemoryError:
        return _failed("not enough memory. Choose smaller sizes")
    except (BenchError, TrainingError, libraries.BackendError, OSError) as error:
        return _failed(str(error))
    return status if isinstance(status, int) else 0


def _failed(message: str) -> int:
    try:
        print(f"gru-xp: error: {printable(' '.join(message.split()))}", file=sys.stderr)
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return 2


def _drop_output() -> None:
    """Discard the output buffered in the streams, which Python would try to write again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
