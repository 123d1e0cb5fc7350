"""A plot of the loss curve."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from gru_xp.files import write_whole

FILE = "loss.png"


def save_loss_curve(
    losses: list[float], held_out: list[tuple[int, float]], folder: Path, /
) -> None:
    """Plot the loss over the steps into ``loss.png``.

    Parameters
    ----------
    losses : list of float
        Loss of each step, in bits per character.
    held_out : list of (int, float)
        Number of steps, and bits per character of the held-out text after them.
    folder : Path
        Folder in which the file is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # pyplot is not used, because it looks for a display and has global state.
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="bits per character")
    axes.plot(
        np.arange(1, len(losses) + 1), losses, linewidth=0.6, alpha=0.5, label="training, each step"
    )
    if held_out:
        axes.plot(*zip(*held_out, strict=True), marker="o", label="held out")
    axes.grid(alpha=0.3)
    axes.legend()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_whole(folder / FILE, data.getvalue())
