"""Draw the figures of the pages on speed, and write their tables, from the committed figures.

``python docs/draw.py`` does both; ``tests/test_speed_page.py`` checks that nobody has changed one
without the other. In a page, a table of `TABLES` stands between two comments, the first of which
names it. To publish figures of your own, write them by ``gru-xp bench --json`` into ``docs`` and
name the file below.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from hashlib import sha256
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from PIL import Image, PngImagePlugin

from gru_xp.bench import plot
from gru_xp.bench.contestant import IN_TORCH, OWN, PORTABLE

DOCS = Path(__file__).parent
GPU = DOCS.parent / "backends" / "cupy"
PAGES = (DOCS / "speed.md", DOCS / "performance.md", GPU / "RECORD.md")

Document = dict[str, Any]
PRECISIONS = {each: each for each in ("float16", "bfloat16", "float32")} | {"tf32": "TF32"}
NAMES = {"torch": "torch", "onnxruntime": "ONNX Runtime", "jax": "jax.jit"}
AVX512, AVX2, XEON = "bench-avx512.json", "bench-avx2.json", "bench.json"
MACHINES = {
    AVX512: "AMD Zen 4, AVX-512",
    "bench-torch.json": "AMD Zen 4, AVX-512, torch script",
    AVX2: "AMD Zen 4, AVX2",
    "bench-avx2-again.json": "AMD Zen 4, AVX2, second run",
    XEON: "Intel Xeon, AVX-512, earlier engine",
    "bench-again.json": "Intel Xeon, AVX-512, earlier engine, second run",
}

# --- What has been measured


def read(file: str) -> Document:
    """Read what ``gru-xp bench --json`` has written."""
    document: Document = json.loads((DOCS / file).read_text())
    return document


def cases(file: str, threads: int, *kinds: str) -> list[Document]:
    """Return what was measured on so many threads, of some kinds or of all."""
    (part,) = (each for each in read(file)["threads"] if each["threads"] == threads)
    return [each for each in part["cases"] if not kinds or each["kind"] in kinds]


def by_size(file: str, threads: int) -> dict[str, dict[str, Document]]:
    """Return the contestants of whole sequences by size and kind."""
    sizes: dict[str, dict[str, Document]] = {}
    for case in cases(file, threads, "forward", "training"):
        size = f"({', '.join(str(case[letter]) for letter in 'TNIH')})"
        sizes.setdefault(size, {})[case["kind"]] = case["contestants"]
    return sizes


def record(what: str) -> list[Document]:
    """Return the lines of the record of a GPU that are about something."""
    lines = map(json.loads, (GPU / "record" / "h200.jsonl").read_text().splitlines())
    return [each for each in lines if each["what"] == what]


def layers() -> dict[tuple[str, int, int], dict[str, dict[str, float]]]:
    """Return microseconds a step on the H200 by precision, H and N, then by kind and contestant."""
    found: dict[tuple[str, int, int], dict[str, dict[str, float]]] = {}
    for each in record("layer"):
        size, kind = each["case"].split()
        _, rows, _, hidden = map(int, size.split("x"))
        precision = PRECISIONS[each["precision"]]
        found.setdefault((precision, hidden, rows), {})[kind] = each["us"]
    return found


# --- Numbers as text


def rounded(value: float, digits: int) -> str:
    """Round a half up, as readers do; formatting would round it to even."""
    return f"{Decimal(str(value)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):,}"


def time(microseconds: float) -> str:
    """Write a time as ``gru-xp bench`` does."""
    return rounded(microseconds, 2 if microseconds < 10 else 1 if microseconds < 100 else 0)


def ratio(value: float, digits: int = 2) -> str:
    """Write how many times longer another takes; bold where gru_xp is slower."""
    text = rounded(value, digits)
    return f"**{text}**" if Decimal(text) < 1 else text


def span(values: list[float]) -> str:
    """Write the least and the greatest of some ratios."""
    return f"{rounded(min(values), 2)} to {rounded(max(values), 2)}"


def table(head: str, rows: list[list[str]]) -> str:
    """Write a table in Markdown; in the head, columns are separated by bars.

    A first cell that repeats the one above is left empty.
    """
    columns = [each.strip() for each in head.split("|")]
    lines = [columns]
    for before, row in zip([None, *rows], rows, strict=False):
        repeats = before is not None and before[0] == row[0]
        lines.append(["", *row[1:]] if repeats else row)
    text = ["".join(f"| {cell} " if cell else "| " for cell in line) + "|" for line in lines]
    return "\n".join([text[0], "|---" * len(columns) + "|", *text[1:]])


# --- Tables of machines


def sequences(file: str, threads: int, peers: dict[str, str]) -> str:
    """Times of whole sequences, and how many times longer the peers take.

    `peers` has the forward's and the training's, separated by a blank.
    """
    columns = {kind: names.split() for kind, names in peers.items()}
    rows: list[list[str]] = []
    ratios: dict[tuple[str, str], list[float]] = {}
    for size, kinds in by_size(file, threads).items():
        row = [size]
        for kind, names in columns.items():
            row.append(time(kinds[kind][OWN]["us_per_step"]))
            for name in names:
                value = kinds[kind][name]["ratio"]
                ratios.setdefault((kind, name), []).append(value)
                row.append(ratio(value))
        rows.append(row)
    last = ["geometric mean"]
    for kind, names in columns.items():
        last += ["", *(ratio(geometric_mean(ratios[kind, name])) for name in names)]
    heads = [
        " | ".join([f"{kind}, µs a step", *(NAMES[name] for name in names)])
        for kind, names in columns.items()
    ]
    return table(f"T, N, I, H | {' | '.join(heads)}", [*rows, last])


def of_machine(file: str, threads: int) -> Callable[[], str]:
    """Return what makes the table of a machine."""
    training = "torch jax" if file in (XEON, "bench-again.json") else "torch"
    peers = {"forward": f"onnxruntime {training}", "training": training}
    return lambda: sequences(file, threads, peers)


def steps(*columns: tuple[str, int]) -> str:
    """Single steps, of files and numbers of threads that have all three kinds."""
    kinds = {
        "step": "`GRUCell` in eval",
        "step training": "`GRUCell`, training",
        "single training": "`GRU`, T = 1, training",
    }
    rows = []
    for file, threads in columns:
        of_units: dict[int, list[str]] = {}
        for case in cases(file, threads, *kinds):
            found = case["contestants"]
            of_units.setdefault(case["H"], []).extend(
                [time(found[OWN]["us_per_step"]), ratio(found["torch"]["ratio"])]
            )
        where = f"{MACHINES[file].removeprefix('AMD Zen 4, ')}, {counted(threads)}"
        lead = [where] if len(columns) > 1 else []
        for hidden, cells in of_units.items():
            rows.append([*lead, str(hidden), *cells])
    head = "H | " + " | ".join(f"{kind}, µs | torch" for kind in kinds.values())
    return table(f"| {head}" if len(columns) > 1 else head, rows)


def counted(threads: int) -> str:
    """Write a number of threads."""
    return "one thread" if threads == 1 else "two threads"


def torch_script() -> str:
    """How many times longer torch takes than the same script with gru_xp's module."""
    rows: dict[str, list[str]] = {}
    for threads in (1, 2):
        for size, kinds in by_size("bench-torch.json", threads).items():
            for found in kinds.values():
                rows.setdefault(size, [size]).append(ratio(in_torch(found)))
    head = "T, N, I, H | forward, one thread | training | forward, two threads | training"
    return table(head, list(rows.values()))


def in_torch(found: Document) -> float:
    """How many times longer torch takes than a torch script with gru_xp's module."""
    return float(found["torch"]["us_per_step"] / found[IN_TORCH]["us_per_step"])


def streams() -> str:
    """How long the steps of a stream take."""
    rows = []
    for case in cases("stream.json", 1):
        own, peers = case["contestants"][OWN], case["contestants"]
        ends = [time(own[f"us_per_step{end}"]) for end in ("", "_99", "_99.9")]
        subject = f"H = {case['H']}" + (", two layers" if case["layers"] == 2 else "")
        most = rounded(own["us_per_step_most"], 0)
        others = [rounded(peers[name]["ratio"], 1) for name in ("onnxruntime", "torch")]
        rows.append([subject, *ends, most, *others])
    head = "one row | median, µs | 99 % | 99.9 % | slowest | ONNX Runtime | `torch.nn.GRU`"
    return table(head, rows)


def gpu() -> str:
    """How many times longer cuDNN takes on the H200."""
    rows: dict[str, list[str]] = {}
    for kind in ("forward", "training"):
        for (precision, hidden, _), kinds in layers().items():
            name = f"{precision}, H = {hidden}"
            us = kinds[kind]
            rows.setdefault(name, [name]).append(ratio(us["torch"] / us[OWN]))
    head = "| forward, N = 1 | N = 16 | N = 64 | training, N = 1 | N = 16 | N = 64"
    return table(head, list(rows.values()))


def headline() -> str:
    """The least and the greatest ratios of each machine."""
    kinds = ("forward", "training")
    rows = []
    for file in (AVX512, "bench-torch.json", AVX2, XEON):
        compared = [others(each[kind]) for each in by_size(file, 1).values() for kind in kinds]
        is_script = file == "bench-torch.json"
        for name in ("torch, in a torch script",) if is_script else NAMES.values():
            of_kind = [
                [each[name] for each in compared[place::2] if name in each] for place in (0, 1)
            ]
            cells = [span(values) if values else "" for values in of_kind]
            if any(cells):
                rows.append([MACHINES[AVX512 if is_script else file], name, *cells])
    for precision in ("float16", "TF32"):
        chosen = [each for (name, *_), each in layers().items() if name == precision]
        cells = [span([each[kind]["torch"] / each[kind][OWN] for each in chosen]) for kind in kinds]
        rows.append([f"NVIDIA H200, {precision}", "torch (cuDNN)", *cells])
    return table("measured on | compared with | forward | training", rows)


def slower() -> str:
    """Every committed case in which something is faster than gru_xp, by one percent or more."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for file, machine in MACHINES.items():
        for threads in (1, 2):
            for case in cases(file, threads):
                for other, value in others(case["contestants"]).items():
                    found.setdefault((machine, named(case), other), {})[threads] = value
    for (precision, hidden, count), kinds in layers().items():
        for kind, us in kinds.items():
            what = f"{precision}, H = {hidden}, N = {count}, {kind}"
            found["NVIDIA H200", what, "torch (cuDNN)"] = {0: us["torch"] / us[OWN]}
    rows = []
    for (machine, what, other), by_threads in found.items():
        if any(round(value, 2) < 1 for value in by_threads.values()):
            values = [by_threads.get(threads, by_threads.get(0)) for threads in (1, 2)]
            cells = ["" if value is None else ratio(value) for value in values]
            rows.append([machine, what, other, cells[0], "" if 0 in by_threads else cells[1]])
    return table("measured on | case | compared with | one thread | two threads", rows)


def others(found: Document) -> dict[str, float]:
    """Return the ratios of all that gru_xp is compared with; in a torch script, to that."""
    ratios = {NAMES[name]: each["ratio"] for name, each in found.items() if name in NAMES}
    ratios["the portable loop"] = found[PORTABLE]["ratio"]
    if IN_TORCH in found:
        ratios["torch, in a torch script"] = in_torch(found)
    return ratios


def named(case: Document) -> str:
    """Name what is measured."""
    step, size = f"H = {case['H']}", f"({', '.join(str(case[letter]) for letter in 'TNIH')})"
    names = {
        "step": f"`GRUCell` in eval, {step}",
        "step training": f"`GRUCell`, training, {step}",
        "single training": f"`GRU`, T = 1, training, {step}",
    }
    return names.get(case["kind"], f"{size}, {case['kind']}")


# --- Tables for engineers


def peaks() -> str:
    """Share of the peak, in percent."""
    rows: dict[str, list[str]] = {}
    files = (AVX512, AVX2, XEON, "bench-again.json")
    for file in files:
        for threads in (1, 2):
            for size, kinds in by_size(file, threads).items():
                shares = [rounded(100 * each[OWN]["share_of_peak"], 0) for each in kinds.values()]
                rows.setdefault(size, [size]).append(", ".join(shares))
    names = ("AMD, AVX-512", "AMD, AVX2", "Intel", "Intel, second run")
    heads = [f"{name}, {counted(threads)}" for name in names for threads in (1, 2)]
    return table(f"T, N, I, H | {' | '.join(heads)}", list(rows.values()))


def again() -> str:
    """Ratios of the second run on AVX2."""
    rows = []
    sizes = list(by_size(AVX2, 1))
    for threads in (1, 2):
        for kind, name in (("forward", "onnxruntime"), ("training", "torch")):
            found = by_size("bench-avx2-again.json", threads)
            cells = [ratio(found[size][kind][name]["ratio"]) for size in sizes]
            rows.append([f"{NAMES[name]}, {kind}, {counted(threads)}", *cells])
    return table("| " + " | ".join(sizes), rows)


def xeon_steps() -> str:
    """Steps of a cell in eval on the Xeon, both runs."""
    rows: dict[int, list[str]] = {}
    for threads in (1, 2):
        runs = zip(
            *(cases(file, threads, "step") for file in (XEON, "bench-again.json")), strict=True
        )
        for both in runs:
            found = [each["contestants"] for each in both]
            times = " / ".join(time(each[OWN]["us_per_step"]) for each in found)
            ratios = " / ".join(ratio(each["torch"]["ratio"]) for each in found)
            hidden = both[0]["H"]
            rows.setdefault(hidden, [str(hidden)]).extend([times, ratios])
    return table("H | one thread, µs | torch | two threads, µs | torch", list(rows.values()))


def memory() -> str:
    """Peak memory of a training step."""
    rows = []
    for file in (AVX2, XEON, "bench-again.json"):
        for each in read(file)["memory"]:
            size = f"({', '.join(str(each[letter]) for letter in 'TNIH')})"
            grown = [rounded(each["bytes"][name] / 2**20, 0) for name in (OWN, "torch")]
            rows.append(
                [MACHINES[file], size, *grown, rounded(each["ratio_gru_xp_to"]["torch"], 2)]
            )
    return table("| T, N, I, H | gru_xp, MiB | torch, MiB | gru_xp / torch", rows)


def gpu_layers() -> str:
    """Times of whole layers on the H200."""
    rows = []
    for (precision, hidden, count), kinds in layers().items():
        cells = []
        for us in kinds.values():
            value = us["torch"] / us[OWN]
            digits = 2 if value < 1 else 1
            cells += [rounded(us[OWN], 1), rounded(us["torch"], 1), ratio(value, digits)]
        name = f"{precision}, H = {hidden}"
        rows.append([name, str(count), *cells])
    return table("| N | forward | torch | ratio | training | torch | ratio", rows)


Ways = dict[str, dict[str, float]]


def loops(*kinds: str) -> dict[tuple[str, int, int], Ways]:
    """Return microseconds a step of the loop alone by precision, H and N, then by path and way."""
    us: dict[tuple[str, int, int], Ways] = {}
    for what in kinds:
        for each in record(what):
            name = PRECISIONS[each["precision"]]
            place = us.setdefault((name, each["H"], each["N"]), {})
            place.setdefault(f"{what}: {each['path']}", {})[each["way"]] = each["us"]
    return us


def cost_model() -> Any:
    """Load ``plan.py`` alone, as its package needs CuPy."""
    spec = importlib.util.spec_from_file_location("plan", GPU / "gru_xp_cupy" / "plan.py")
    if spec is None or spec.loader is None:
        raise ImportError("plan.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


H100 = 132, 227 << 10, 90  # multiprocessors, bytes of shared memory of a block, capability


def expected_on_an_h100() -> str:
    """Times of whole layers if the loop takes what the cost model expects.

    To the loop is added what a layer on the H200 took besides; torch's times are those measured.
    """
    model, rows = cost_model(), []
    device = model.Device(*H100)

    def step(gates: int, name: str, hidden: int, count: int) -> float:
        problem = model.Problem(count, hidden, name.replace("TF", "tf"), gates)
        found = model.plan(problem, device)
        return float(min(found.step, model.step_of_two_launches(problem, device)))

    measured = loops("loop")
    for (name, hidden, count), us in layers().items():
        paths = measured[name, hidden, count].values()
        taken = {way: min(each[way] for each in paths) for way in next(iter(paths))}
        forward, backward = (step(gates, name, hidden, count) for gates in (3, 1))
        cells = []
        for kind, loop, before in (
            ("forward", forward, taken["forward"]),
            ("training", forward + backward, taken["forward with tape"] + taken["backward"]),
        ):
            own, torch = loop + max(0.0, us[kind][OWN] - before), us[kind]["torch"]
            value = torch / own
            cells += [rounded(own, 1), rounded(torch, 1), ratio(value, 2 if value < 1 else 1)]
        rows.append([f"{name}, H = {hidden}", str(count), *cells])
    return table("| N | forward | torch | ratio | training | torch | ratio", rows)


def gpu_loops() -> str:
    """Times of the loop alone on the H200."""
    us = loops("loop", "loop, first design")
    columns = {
        "loop: persistent kernel": 22.0,
        "loop, first design: persistent kernel": 22.0,
        "loop: a kernel a step": 0.0,
        "loop, first design: a kernel a step": 0.0,
    }
    rows = []
    for (precision, hidden, count), found in us.items():
        if precision == "bfloat16":
            continue
        cells = []
        for name, exact in columns.items():
            times = [found.get(name, {}).get(way) for way in ("forward", "backward")]
            cells.append(
                " / ".join(rounded(each, int(each < exact)) for each in times if each is not None)
            )
        name = f"{precision}, H = {hidden}"
        rows.append([name, str(count), *cells])
    head = "| N | persistent kernel | its first design | a kernel a step | its first design"
    return table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "AVX-512, one thread": of_machine(AVX512, 1),
    "AVX-512, two threads": of_machine(AVX512, 2),
    "AVX2, one thread": of_machine(AVX2, 1),
    "AVX2, two threads": of_machine(AVX2, 2),
    "Xeon, one thread": of_machine(XEON, 1),
    "Xeon, two threads": of_machine(XEON, 2),
    "H200": gpu,
    "torch script": torch_script,
    "one step": lambda: steps((AVX512, 1)),
    "streams": streams,
    "slower": slower,
    "peaks": peaks,
    "AVX2 again": again,
    "Xeon again, one thread": of_machine("bench-again.json", 1),
    "Xeon again, two threads": of_machine("bench-again.json", 2),
    "other steps": lambda: steps((AVX512, 2), (AVX2, 1), (AVX2, 2)),
    "Xeon steps": xeon_steps,
    "memory": memory,
    "H200 layers": gpu_layers,
    "H200 loops": gpu_loops,
    "H100 arithmetic": expected_on_an_h100,
}

_PLACE = re.compile(r"<!-- table: (.*?) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str) -> str:
    """Return a page with its tables as the committed figures have them."""

    def place(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n{TABLES[found[1]]()}\n\n<!-- end -->"

    return _PLACE.sub(place, page)


# --- Figures

Panels = list[tuple[str, list[str], plot.Ratios]]


def of_sequences(file: str, title: str) -> Panels:
    """Ratios of whole sequences on one thread."""
    found = by_size(file, 1)
    series: plot.Ratios = {
        f"{name}, {kind}": [kinds[kind][name]["ratio"] for kinds in found.values()]
        for name in NAMES
        for kind in ("forward", "training")
        if all(name in kinds[kind] for kinds in found.values())
    }
    return [(f"{title}, one thread", list(found), series)]


def of_gpu() -> Panels:
    """Ratios on the H200."""
    found = layers()
    labels = [f"{name}, H = {hidden}, N = {rows}" for name, hidden, rows in found]
    series: plot.Ratios = {
        f"torch, {kind}": [each[kind]["torch"] / each[kind][OWN] for each in found.values()]
        for kind in ("forward", "training")
    }
    return [("NVIDIA H200, torch with cuDNN", labels, series)]


def of_streams() -> Document:
    """What the histograms of the streams show: no other form of gru_xp."""
    document = read("stream.json")
    for case in document["threads"][0]["cases"]:
        del case["contestants"][PORTABLE]
    return document


FIGURES: dict[str, Callable[[], Any]] = {
    "speed.png": lambda: of_sequences(AVX512, "AMD Zen 4, AVX-512"),
    "speed-avx2.png": lambda: of_sequences(AVX2, "AMD Zen 4, AVX2 for gru_xp"),
    "speed-xeon.png": lambda: of_sequences(XEON, "Intel Xeon, earlier engine"),
    "speed-h200.png": of_gpu,
    "stream.png": of_streams,
}
"""What each shows."""


def fingerprint(shown: Any) -> str:
    """Say what a figure was drawn from; each figure has that in it."""
    return sha256(json.dumps(shown).encode()).hexdigest()


def draw(name: str, folder: Path) -> None:
    """Draw a figure; its colours are few, which makes it small."""
    path, shown = folder / name, FIGURES[name]()
    (plot.save_histograms if isinstance(shown, dict) else plot.save_bars)(shown, path)
    told = PngImagePlugin.PngInfo()
    told.add_text("Source", fingerprint(shown))
    with Image.open(path) as image:
        image.convert("RGB").quantize(64).save(path, optimize=True, pnginfo=told)


def main() -> Iterator[str]:
    """Write everything; yield what was changed."""
    for name in FIGURES:
        draw(name, DOCS)
        yield name
    for page in PAGES:
        old = page.read_text()
        new = filled(old)
        if new != old:
            page.write_text(new)
            yield page.name


if __name__ == "__main__":
    print(*main(), sep="\n")
