"""Plots of time ratios, and histograms of the step times of streams."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.bench.contestant import FORMS, IN_TORCH, OWN, PERSISTENT, PORTABLE
from gru_xp.bench.report import Document, case_of, threads_of
from gru_xp.files import write_whole

Ratios = dict[str, list[float | None]]
SUFFIXES = (".png", ".svg", ".pdf")
SLOWER = f"times as long as {OWN}\n(above 1: {OWN} is faster)"
"""Label of the axis of ratios."""

_WIDTH = 4.6  # inches, at which the text is readable on a phone
_BAR = 0.17
_COLOURS = {
    OWN: "C0",
    "torch": "C1",
    "onnxruntime": "C2",
    "jax": "C3",
    "torch GRUCell": "C4",
    PERSISTENT: "C6",
    PORTABLE: "C7",
    IN_TORCH: "C9",
}
"""Colours of the contestants, the same in every plot."""


def save(document: Document, path: Path, /) -> None:
    """Plot grouped bars, one panel per number of threads, in the format given by the suffix."""
    panels = []
    for part in document["threads"]:
        names = [name for name in part["cases"][0]["contestants"] if name != OWN]
        names += [name for name in part["summary"] if name not in names]
        ratios = {
            name: [each["contestants"].get(name, {}).get("ratio") for each in part["cases"]]
            for name in names
        }
        labels = [str(case_of(each)) for each in part["cases"]]
        panels.append((threads_of(part), labels, ratios))
    save_bars(panels, path)


def save_bars(panels: list[tuple[str, list[str], Ratios]], path: Path, /) -> None:
    """Plot panels of bars side by side.

    Parameters
    ----------
    panels : list of tuple
        For each panel its title, the labels of its groups (the same for all panels), and the ratios
        of each series: one per label, or None if there is none. A series is named after a
        contestant. It is drawn in a paler colour if the name ends in ", training".
    path : Path
        Name of the file, whose suffix determines the format.
    """
    most = max(len(labels) * (len(ratios) + 1) for _, labels, ratios in panels)
    figure = _figure(_WIDTH * len(panels), most * _BAR + 1.3)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, labels, ratios) in zip(grid, panels, strict=True):
        _draw(axes, labels, ratios)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(SLOWER)
    handles = grid[0].get_legend_handles_labels()
    _add_legend(figure, *handles)
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
    bar = figure.colorbar(points, ax=grid, extend="both", label=f"times as long as {OWN}")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{2**value:.2g}")
    _write(figure, path)


def save_histograms(document: Document, path: Path, /) -> None:
    """Plot histograms of the times of a stream's steps.

    There is one panel per case and number of threads, with a line per contestant.
    """
    parts = document["threads"]
    rows = len(parts[0]["cases"])
    figure = _figure(_WIDTH * len(parts), 0.6 + 1.8 * rows)
    grid = figure.subplots(rows, len(parts), squeeze=False, sharex=True, sharey=True)
    cases = [(part, case) for part in parts for case in part["cases"]]
    lines: dict[str, Any] = {}  # not every case has every contestant
    for axes, (part, case) in zip(grid.T.ravel(), cases, strict=True):
        for name, numbers in case["contestants"].items():
            shares = np.asarray(numbers["histogram"]) / numbers["steps"]
            edges, colour = case["histogram_edges_us"], _COLOURS.get(name)
            lines[name] = axes.stairs(shares, edges, color=colour)
        axes.set_title(f"{case_of(case)}, {threads_of(part)}", fontsize="medium")
        axes.set(
            xscale="log", yscale="log", ylabel="share of the steps", xlim=_range_of_times(cases)
        )
        axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xlabel("µs per step")
    _add_legend(figure, list(lines.values()), list(lines))
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


def _add_legend(figure: Any, handles: list[Any], names: list[str]) -> None:
    columns = min(2, len(names))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, fontsize="small")


def _write(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, data.getvalue())


def _draw(axes: Any, labels: list[str], series: Ratios) -> None:
    height = 1 / (len(series) + 1)
    for place, (name, ratios) in enumerate(series.items()):
        found = [(at, ratio) for at, ratio in enumerate(ratios) if ratio is not None]
        at, lengths = (np.asarray(column) for column in zip(*found, strict=True))
        # Bars start at 1, because a logarithmic axis has no 0.
        bars = axes.barh(
            at + (place + 1) * height - 0.5,
            lengths - 1,
            height,
            left=1,
            label=name,
            color=_COLOURS.get(name.partition(",")[0]),
            alpha=0.5 if name.endswith(", training") else 1,
        )
        axes.bar_label(bars, [f" {ratio:.2f}" for ratio in lengths], fontsize="x-small")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.15)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.grid(axis="x", alpha=0.3)
