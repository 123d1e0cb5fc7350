"""Plots of time ratios, and histograms of the step times of streams."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.bench.contestant import FORMS, OWN
from gru_xp.bench.report import Document, case_of, threads_of
from gru_xp.files import write_whole

SUFFIXES = (".png", ".svg", ".pdf")


def save(document: Document, path: Path, /) -> None:
    """Plot grouped bars, one panel per number of threads, in the format given by the suffix."""
    parts = document["threads"]
    cases = max(len(part["cases"]) for part in parts)
    figure = _figure(max(7, 0.9 * cases), 4 * len(parts))
    panels = figure.subplots(len(parts), squeeze=False)[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _draw(axes, part)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]))
    _write(figure, path)


def save_map(document: Document, path: Path, /) -> None:
    """Plot a point for each size over hidden units and rows, with the ratio as its colour.

    There is one panel per number of threads, peer and kind of case. Without peers, the panels are
    for the other forms of gru_xp.
    """
    from matplotlib.colors import CenteredNorm

    panels = []
    for part in document["threads"]:
        names = [name for name in part["summary"] if name not in FORMS] or list(part["summary"])
        panels += [
            (
                f"{name}, {kind}, {threads_of(part)}",
                name,
                [c for c in part["cases"] if c["kind"] == kind],
            )
            for name in names
            for kind in part["summary"][name]
        ]
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = _figure(4.5 * columns, 3.6 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    norm = CenteredNorm(0, halfrange=2)  # from a quarter to four times
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, name, cases) in zip(grid, panels, strict=False):
        ratios = [case["contestants"][name]["ratio"] for case in cases]
        hidden, rows = ([case[letter] for case in cases] for letter in "HN")
        points = axes.scatter(hidden, rows, c=np.log2(ratios), norm=norm, cmap="RdBu", ec="grey")
        for x, y, ratio in zip(hidden, rows, ratios, strict=True):
            if ratio < 1:
                axes.annotate(f"{ratio:.2f}", (x, y), fontsize="xx-small", va="bottom")
        axes.set(title=title, xscale="log", yscale="log", xlabel="H", ylabel="N")
    bar = figure.colorbar(points, ax=grid, extend="both", label=f"time relative to {OWN}")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{2**value:.2g}")
    _write(figure, path)


def save_histograms(document: Document, path: Path, /) -> None:
    """Plot histograms of the times of a stream's steps.

    There is one panel per case and number of threads, with a line per contestant.
    """
    parts = document["threads"]
    columns = len(parts[0]["cases"])
    figure = _figure(5 * columns, 3.6 * len(parts))
    grid = figure.subplots(len(parts), columns, squeeze=False, sharex=True, sharey=True)
    cases = [(part, case) for part in parts for case in part["cases"]]
    lines: dict[str, Any] = {}  # by contestant, as not every case has all of them
    for axes, (part, case) in zip(grid.ravel(), cases, strict=True):
        for name, numbers in case["contestants"].items():
            shares = np.asarray(numbers["histogram"]) / numbers["steps"]
            colour = lines[name].get_edgecolor() if name in lines else f"C{len(lines)}"
            lines[name] = axes.stairs(shares, case["histogram_edges_us"], color=colour)
        axes.set(title=f"{case_of(case)}, {threads_of(part)}", xscale="log", yscale="log")
        axes.set(xlabel="µs per step", ylabel="share of steps", xlim=_range_of_times(cases))
        axes.grid(alpha=0.3)
    figure.legend(lines.values(), lines, loc="outside upper center", ncols=len(lines))
    _write(figure, path)


def _range_of_times(cases: list[tuple[Document, Document]]) -> tuple[float, float]:
    """Return the range in µs that contains the steps of all histograms."""
    counts = sum(
        np.asarray(numbers["histogram"])
        for _, case in cases
        for numbers in case["contestants"].values()
    )
    used, edges = np.flatnonzero(counts), cases[0][1]["histogram_edges_us"]
    return edges[used[0]], edges[used[-1] + 1]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot, which looks for a display
    return figure


def _write(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, data.getvalue())


def _draw(axes: Any, part: Document) -> None:
    names = [name for name in part["cases"][0]["contestants"] if name != OWN]
    names += [name for name in part["summary"] if name not in names]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        found = [
            (index, each["contestants"][name]["ratio"])
            for index, each in enumerate(part["cases"])
            if name in each["contestants"]
        ]
        at, ratios = (np.asarray(column) for column in zip(*found, strict=True))
        # Bars start at 1, because a logarithmic axis has no 0.
        axes.bar(at + (place + 0.5) * width - 0.4, ratios - 1, width, bottom=1, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    labels = [str(case_of(each)).replace(" ", "\n", 1) for each in part["cases"]]
    axes.set_xticks(range(len(labels)), labels, fontsize="x-small", rotation=30)
    axes.set_ylabel(f"time relative to {OWN}\n(above 1: {OWN} is faster)")
    axes.set_title(threads_of(part))
    axes.grid(axis="y", alpha=0.3)
