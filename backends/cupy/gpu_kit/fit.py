"""Fit the constants of the cost model in ``plan.py`` to times that ``loops.py --layouts`` wrote.

``python fit.py FILE ...``, such as ``../record/h200.jsonl``: what each constant comes out as, and
how far the model with them, and with those in ``plan.py``, is from the times. One of the files has
what ``constants.py`` says of the device. Needs no GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gru_xp_cupy.plan import HOPPER, Costs, Device, Problem, plans


def measured(paths: list[str], /) -> list[tuple[Costs, float]]:
    """Read times, each with the counts of its layout."""
    text = "\n".join(Path(path).read_text() for path in paths)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in text.splitlines() if line.startswith("{")
    ]
    (about,) = (told for told in lines if told["what"] == "device")
    device = Device(
        about["multiprocessors"], about["shared_bytes"], int(about["compute_capability"])
    )
    found = []
    for told in lines:
        if told["what"] != "layout":
            continue
        gates = 1 if told["way"] == "backward" else 3
        problem = Problem(*told["size"], told["precision"], gates)
        layouts = plans(problem, device)
        found += [(each.counts, told["us"]) for each in layouts if each.has_layout(told["layout"])]
    return found


def fit(counts: Any, times: Any, /) -> Any:
    """Solve for the constants by least squares of the relative error, none of them negative."""
    used = np.any(counts != 0, axis=0)
    while True:
        solved = np.zeros(counts.shape[1])
        weighted = counts[:, used] / times[:, None]
        solved[used] = np.linalg.lstsq(weighted, np.ones(len(times)))[0]
        if not np.any(solved < 0):
            return solved
        used &= solved > 0


def main(paths: list[str], /) -> None:
    """Fit, and print."""
    found = measured(paths)
    counts, times = np.array([each for each, _ in found]), np.array([time for _, time in found])
    fitted = fit(counts, times)
    for name, value, now in zip(Costs._fields, fitted, HOPPER, strict=True):
        print(f"{name:14} {value:8.4f}  in plan.py {now}")
    for what, costs in (("fitted", fitted), ("plan.py", HOPPER)):
        errors = counts @ np.array(costs) / times - 1
        print(
            f"{what}: {len(times)} times, error {np.sqrt(np.mean(errors**2)):.1%} on the mean, "
            f"from {errors.min():+.0%} to {errors.max():+.0%}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
