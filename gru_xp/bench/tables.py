"""The results as tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gru_xp.bench.cases import KINDS, Size
from gru_xp.bench.contestant import EXPERIMENTAL, FORMS, OWN
from gru_xp.bench.report import Document, case_of, is_of_streams, threads_of

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 132


def show(document: Document, /, *, worst_first: bool = False) -> None:
    """Print a document to stdout, in its order or sorted by the least ratio to a peer."""
    from rich.console import Console

    # Fixed width if there is no terminal, so that tables in a file are not wrapped.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    versions = document["versions"]
    print(
        f"gru_xp {versions['gru-xp']}, backend {document['backend']}, {document['precision']}; "
        f"recurrence: {document['recurrence']}"
    )
    isa = f", {document['isa']}" if document["isa"] else ""
    print(f"{document['processor']}{isa}; usable CPUs: {document['cpus']}")
    gpu = document["gpu"]
    if gpu:
        print(
            f"{gpu['name']}, driver {gpu['driver']}; CUDA {gpu['cuda_runtime']}, CuPy "
            f"{versions['cupy']}; torch {versions.get('torch')}, cuDNN {gpu['cudnn']}"
        )
    for note in document["notes"]:
        print(f"note: {note}")
    if is_of_streams(document):
        print("µs: time of one step of a stream, each step timed separately, from Python; ratio:")
        print("median relative to that of gru_xp (above 1, gru_xp is faster)")
    else:
        print("µs: median time per step of the sequence; ratio: time relative to that of gru_xp")
        print("(above 1, gru_xp is faster); peak: share of the processor's peak multiply-add rate")
    if gpu and gpu["bounds"]:
        print("floor: lower bound of a forward step that reads W_hh every time; none for training.")
        print("The persistent kernel keeps W_hh on the chip and may be faster")
    if any(
        "expected_us_per_step" in case for part in document["threads"] for case in part["cases"]
    ):
        print("expected: time of the loop alone, predicted by a cost model fitted to an H200")
    for part in document["threads"]:
        print()
        if is_of_streams(document):
            console.print(_streams_table(part))
        else:
            console.print(_times_table(part, worst_first=worst_first))
        console.print(_summary_table(part["summary"]))
    if document["memory"]:
        print()
        console.print(_memory_table(document["memory"]))


def _times_table(part: Document, *, worst_first: bool) -> Table:
    peak, title = part["peak_flops"], threads_of(part)
    if peak:
        title += f", peak {peak / 1e9:,.0f} GFLOP/s"
    table = _table(title, "TxNxIxH", "")
    # Shown for forward cases only, in the row of the first contestant.
    once = {"floor µs": "floor_us_per_step", "expected µs": "expected_us_per_step"}
    of_forward = {
        title: {
            case_of(each).subject: each[key]
            for each in part["cases"]
            if key in each and not case_of(each).training
        }
        for title, key in once.items()
    }
    of_forward = {title: found for title, found in of_forward.items() if found}
    for kind in ("forward", "training"):
        _add_numbers(table, f"{kind} µs", "ratio", *(["peak"] if peak else []))
        if kind == "forward":
            _add_numbers(table, *of_forward)
    rows: dict[str, dict[str, dict[str, Document]]] = {}
    for each in part["cases"]:
        case = case_of(each)
        for name, numbers in each["contestants"].items():
            rows.setdefault(case.subject, {}).setdefault(name, {})[case.kind] = numbers
    shown = sorted(rows.items(), key=_least_ratio) if worst_first else rows.items()
    for label, contestants in shown:
        for place, (name, kinds) in enumerate(contestants.items()):
            by_column = {KINDS[kind].training: numbers for kind, numbers in kinds.items()}
            forward, training = (
                _cells(by_column.get(column), with_share=bool(peak)) for column in (False, True)
            )
            bounds = [
                _time(found.get(label) if place == 0 else None) for found in of_forward.values()
            ]
            shown_name = f"{name} (experimental)" if name in EXPERIMENTAL else name
            table.add_row("" if place else label, shown_name, *forward, *bounds, *training)
        table.add_section()
    return table


def _streams_table(part: Document) -> Table:
    table = _table(threads_of(part), "", "")
    columns = {"median µs": "", "99 %": "_99", "99.9 %": "_99.9", "most": "_most"}
    _add_numbers(table, *columns, "ratio", "steps")
    for each in part["cases"]:
        for place, (name, numbers) in enumerate(each["contestants"].items()):
            times = [_time(numbers[f"us_per_step{end}"]) for end in columns.values()]
            subject = "" if place else case_of(each).subject
            table.add_row(subject, name, *times, f"{numbers['ratio']:.2f}", f"{numbers['steps']:,}")
        table.add_section()
    return table


def _least_ratio(row: tuple[str, dict[str, dict[str, Document]]]) -> float:
    ratios = (
        numbers["ratio"]
        for name, kinds in row[1].items()
        if name not in FORMS
        for numbers in kinds.values()
    )
    return min(ratios, default=0.0)


def _cells(numbers: Document | None, *, with_share: bool) -> list[str]:
    if numbers is None:
        return [""] * (2 + with_share)
    cells = [_time(numbers["us_per_step"]), f"{numbers['ratio']:.2f}"]
    return [*cells, f"{numbers['share_of_peak']:.0%}"] if with_share else cells


def _time(microseconds: float | None) -> str:
    if microseconds is None:
        return ""
    digits = 2 if microseconds < 10 else 1 if microseconds < 100 else 0
    return f"{microseconds:,.{digits}f}"


def _summary_table(summary: Document) -> Table:
    table = _table("ratios over all sizes", "", "")
    _add_numbers(table, "geometric mean", "least")
    table.add_column("at", no_wrap=True)
    for name, kinds in summary.items():
        for place, (kind, found) in enumerate(kinds.items()):
            numbers = (f"{found[key]:.2f}" for key in ("geometric_mean", "least"))
            table.add_row("" if place else name, kind, *numbers, found["least_at"])
        table.add_section()
    return table


def _memory_table(rows: list[Document]) -> Table:
    names = list(rows[0]["bytes"])
    table = _table("peak memory of a training step, MiB", "TxNxIxH")
    _add_numbers(table, *names, *(f"{OWN} / {name}" for name in names[1:]))
    for row in rows:
        size = str(Size(*(row[letter] for letter in "TNIH")))
        grown = [each if each is None else each / 2**20 for each in row["bytes"].values()]
        ratios = [row["ratio_gru_xp_to"].get(name) for name in names[1:]]
        cells = ["" if each is None else f"{each:,.1f}" for each in grown]
        cells += ["" if each is None else f"{each:.2f}" for each in ratios]
        table.add_row(size, *cells)
    return table


def _table(title: str, *heads: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _add_numbers(table: Table, *heads: str) -> None:
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
