"""The ratios as a picture: how many times faster gru_xp is than each other, case by case."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.bench.contestant import OWN
from gru_xp.bench.report import Document, case_of
from gru_xp.files import write_whole

SUFFIXES = (".png", ".svg", ".pdf")


def save(document: Document, path: Path, /) -> None:
    """Draw grouped bars, one panel for each number of threads, in the format of the suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = document["threads"]
    cases = max(len(part["cases"]) for part in parts)
    figure = Figure(figsize=(max(7, 0.9 * cases), 4 * len(parts)), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no display is looked for
    panels = figure.subplots(len(parts), squeeze=False)[:, 0]
    for axes, part in zip(panels, parts, strict=True):
        _draw(axes, part)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]))
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
        # From 1 up or down: on a logarithmic axis there is no 0 for a bar to stand on.
        axes.bar(at + (place + 0.5) * width - 0.4, ratios - 1, width, bottom=1, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    labels = [str(case_of(each)).replace(" ", "\n", 1) for each in part["cases"]]
    axes.set_xticks(range(len(labels)), labels, fontsize="x-small", rotation=30)
    axes.set_ylabel(f"times as long as {OWN}\n(above 1: {OWN} is faster)")
    axes.set_title("1 thread" if part["threads"] == 1 else f"{part['threads']} threads")
    axes.grid(axis="y", alpha=0.3)
