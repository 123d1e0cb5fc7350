"""Times of whole layers, forward and in training, beside torch's cuDNN in the same mode.

``python layers.py PRECISION NxH ...``: a line of JSON for each case as it ends, with the median
microseconds a step of each contestant of ``gru-xp bench``, of sequences of as many inputs as hidden
units. What they compute is compared first.
"""

from __future__ import annotations

import json
import os
import sys
from statistics import median

STEPS = int(os.environ.get("STEPS", "128"))
REPEATS = 5


def main(precision: str, sizes: list[str], /) -> int:
    """Time all sizes in one precision; return the exit status."""
    os.environ["CUPY_TF32"] = str(int(precision == "tf32"))  # read when CuPy is imported
    from gru_xp.bench import child
    from gru_xp.bench.cases import Job, Size, cases
    from gru_xp.bench.contestant import PERSISTENT, PORTABLE
    from gru_xp.bench.contestants import contestants

    chosen = []
    for size in sizes:
        rows, hidden = map(int, size.split("x"))
        chosen.append(Size(STEPS, rows, hidden, hidden))
    job = Job(tuple(chosen), (), 1, ("torch",), False, "cupy", precision, REPEATS)
    made, notes = contestants(job)
    made = [each for each in made if each.name not in (PERSISTENT, PORTABLE)]
    failed = 0
    for case in cases(job.sizes, ()):
        try:
            measured = child.measure_on_gpu(case, made, job, notes)
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            print(json.dumps({"case": str(case), "error": error}), flush=True)
            failed = 1
            continue
        for each in measured:
            times = {
                name: round(1e6 * median(times["seconds"]) / STEPS, 2)
                for name, times in each["times"].items()
            }
            told = {"what": "layer", "precision": precision, "case": str(case), "us": times}
            print(json.dumps(told), flush=True)
    for note in dict.fromkeys(notes):
        print(json.dumps({"note": note}), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
