"""The results as one document: medians, ratios, shares of the peak, machine and versions."""

from __future__ import annotations

from datetime import datetime
from statistics import geometric_mean
from typing import Any

import numpy as np

from gru_xp.bench import floor, machine, streams
from gru_xp.bench.cases import Case, Job, Size
from gru_xp.bench.contestant import OWN

Document = dict[str, Any]

SCHEMA_VERSION = 1
"""Version of the document. It changes whenever the contents or their meaning change."""


def document(
    measured: list[Document],
    weighed: list[Document],
    /,
    *,
    job: Job,
    notes: list[str],
    arguments: list[str],
) -> Document:
    """Return the document that ``--json`` writes.

    Parameters
    ----------
    measured, weighed : list of dict
        Times and peak memory measured by `gru_xp.bench.parent`.
    job : Job
        The job of the benchmark.
    notes : list of str
        What is left out, and the reasons.
    arguments : list of str
        The command line.
    """
    told = [note for each in measured for note in each["notes"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "arguments": arguments,
        "backend": job.backend,
        "precision": job.precision,
        "processor": machine.processor(),
        "cpus": len(machine.cpus()),
        "isa": measured[0]["isa"],
        "recurrence": measured[0]["recurrence"],
        "gpu": measured[0]["gpu"],
        "versions": machine.versions(job.backend),
        "notes": list(dict.fromkeys([*notes, *told])),
        "threads": [_threads_part(each, job.precision) for each in measured],
        "memory": [_memory_part(each) for each in weighed],
    }


def _threads_part(measured: Document, precision: str) -> Document:
    parts = [
        _stream_part(each) if "spread" in each else _case_part(each, measured["peak_flops"])
        for each in measured["cases"]
    ]
    bounds = measured["gpu"] and measured["gpu"]["bounds"]
    if bounds:
        _add_floors(parts, precision, floor.Chip(**bounds))
    kept = {key: measured[key] for key in ("threads", "peak_flops")}
    return {**kept, "summary": _summary(parts), "cases": parts}


def _add_floors(parts: list[Document], precision: str, chip: floor.Chip) -> None:
    for part in parts:
        case = case_of(part)
        if not case.training:  # the bound applies to the forward only
            part["floor_us_per_step"] = 1e6 * floor.step_seconds(case.size, precision, chip)


def _case_part(measured: Document, peak: float | None) -> Document:
    case = Case(measured["kind"], Size(*measured["size"]))
    own = float(np.median(measured["times"][OWN]["seconds"]))
    contestants = {}
    for name, times in measured["times"].items():
        lower, median, upper = map(float, np.percentile(times["seconds"], [25, 50, 75]))
        contestants[name] = {
            "us_per_step": 1e6 * median / case.size.steps,
            "us_per_call": 1e6 * median,
            "us_per_call_quartiles": [1e6 * lower, 1e6 * upper],
            "ratio": median / own,
            "share_of_peak": case.flops / median / peak if peak else None,
            "calls_in_a_sample": times["calls"],
            "us_per_call_samples": [1e6 * each for each in times["seconds"]],
        }
    size = dict(zip("TNIH", case.size, strict=True))
    expected = {key: measured[key] for key in ("expected_us_per_step",) if key in measured}
    return {"kind": case.kind, **size, "flops": case.flops, **expected, "contestants": contestants}


def _stream_part(measured: Document) -> Document:
    case = Case(measured["kind"], Size(*measured["size"]), measured["layers"])
    own = measured["spread"][OWN]["us_per_step"]
    return {
        "kind": case.kind,
        **dict(zip("TNIH", case.size, strict=True)),
        "layers": case.layers,
        "flops": case.flops,
        "histogram_edges_us": streams.EDGES.tolist(),
        "contestants": {
            name: {"ratio": spread["us_per_step"] / own, **spread}
            for name, spread in measured["spread"].items()
        },
    }


def _summary(parts: list[Document]) -> Document:
    """Summarise each peer's ratios by kind: the geometric mean, and the least with its case."""
    result: Document = {}
    for part in parts:
        for name, each in part["contestants"].items():
            if name != OWN:
                ratios = result.setdefault(name, {}).setdefault(part["kind"], [])
                ratios.append((each["ratio"], str(case_of(part))))
    return {
        name: {
            kind: {
                "geometric_mean": geometric_mean(ratio for ratio, _ in ratios),
                "least": min(ratios)[0],
                "least_at": min(ratios)[1],
            }
            for kind, ratios in kinds.items()
        }
        for name, kinds in result.items()
    }


def _memory_part(measured: Document) -> Document:
    grown = measured["bytes"]
    ratios = {name: grown[OWN] / each for name, each in grown.items() if name != OWN and each}
    size = dict(zip("TNIH", measured["size"], strict=True))
    return {**size, "bytes": grown, "ratio_gru_xp_to": ratios}


def threads_of(part: Document, /) -> str:
    """Return the number of threads of a part of the document as text."""
    count = part["threads"]
    return "1 thread" if count == 1 else f"{count} threads"


def case_of(part: Document, /) -> Case:
    """Return the case of a part of the document."""
    return Case(part["kind"], Size(*(part[letter] for letter in "TNIH")), part.get("layers", 1))


def is_of_streams(document: Document, /) -> bool:
    """Whether a document contains times of single steps of streams."""
    return any(each["kind"] == "stream" for part in document["threads"] for each in part["cases"])
