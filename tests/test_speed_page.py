"""The pages on speed: their tables, sentences and figures say what the committed files say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for name in ("click", "matplotlib", "PIL"):
    pytest.importorskip(name, reason="the command line is the extra gru-xp[cli]")

from PIL import Image  # noqa: E402

from tests.cuda import Machine  # noqa: E402

ROOT = Path(__file__).parents[1]
PAGES = ("docs/speed.md", "docs/performance.md", "backends/cupy/RECORD.md")
AVX512, AVX2 = "bench-avx512.json", "bench-avx2.json"
LARGEST = "(20, 128, 1024, 2048)"
MIDDLE = "(100, 1, 256, 256)"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


draw = loaded()


def text(page: str) -> str:
    return (ROOT / page).read_text()


def tables(page: str) -> list[tuple[str, str]]:
    return re.findall(r"<!-- table: (.*?) -->\n\n(.*?)\n\n<!-- end -->", text(page), re.DOTALL)


# --- Tables


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_a_page_are_those_of_the_files(page: str) -> None:
    assert draw.filled(text(page)) == text(page), "run: python docs/draw.py"


@pytest.mark.parametrize("page", PAGES)
def test_a_number_that_is_altered_in_a_table_is_seen(page: str) -> None:
    for _, table in tables(page):
        last = list(re.finditer(r"\d", table))[-1]
        digit = str((int(last[0]) + 1) % 10)
        altered = text(page).replace(table, table[: last.start()] + digit + table[last.end() :])
        assert altered != text(page)
        assert draw.filled(altered) == text(page)


def test_every_table_is_on_one_page() -> None:
    assert [ROOT / page for page in PAGES] == list(draw.PAGES)
    found = [name for page in PAGES for name, _ in tables(page)]
    assert sorted(found) == sorted(draw.TABLES)
    for page in PAGES:
        count = len(tables(page))
        assert text(page).count("<!-- table: ") == text(page).count("<!-- end -->") == count


def test_a_number_that_is_altered_in_a_file_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    read = draw.read

    def altered(file: str) -> Any:
        document = read(file)
        for part in document["threads"]:
            for case in part["cases"]:
                case["contestants"]["gru_xp"]["us_per_step"] *= 1.1
        return document

    monkeypatch.setattr(draw, "read", altered)
    assert draw.filled(text("docs/speed.md")) != text("docs/speed.md")


# --- Sentences


def step(file: str, threads: int, hidden: int, kind: str = "step") -> Any:
    (found,) = (each for each in draw.cases(file, threads, kind) if each["H"] == hidden)
    return found["contestants"]


def of(file: str, threads: int, size: str, kind: str) -> Any:
    return draw.by_size(file, threads)[size][kind]


def streams() -> list[Any]:
    return [each["contestants"] for each in draw.cases("stream.json", 1)]


def times(number: Any) -> str:
    return draw.time(number["us_per_step"])  # type: ignore[no-any-return]


def two(number: float) -> str:
    return draw.rounded(number, 2)  # type: ignore[no-any-return]


def memory() -> list[float]:
    files = (AVX2, "bench.json", "bench-again.json")
    return [
        each["ratio_gru_xp_to"]["torch"] for file in files for each in draw.read(file)["memory"]
    ]


def gpu(kind: str) -> float:
    us = draw.layers()["float16", 2048, 64][kind]
    return us["torch"] / us["gru_xp"]  # type: ignore[no-any-return]


def sentences() -> list[str]:
    """What the page on speed says in sentences, with the numbers of the files."""
    small, large, _ = streams()
    peers = [draw.rounded(each["onnxruntime"]["ratio"], 1) for each in (small, large)]
    row, rows = (of(AVX512, 1, f"(100, {count}, 64, 64)", "forward") for count in (1, 8))
    portable = [two(step(AVX2, threads, 512)["gru_xp portable"]["ratio"]) for threads in (1, 2)]
    slowest = [draw.in_torch(step("bench-avx2-again.json", 1, each)) for each in (16, 64, 256, 512)]
    assert len({two(each) for each in slowest}) == 1
    xeon = step("bench.json", 2, 512)["torch"]
    return [
        f"takes {times(small['gru_xp'])} µs a step at H = 16 and {times(large['gru_xp'])} µs at H "
        f"= 64. ONNX Runtime takes {peers[0]} and {peers[1]} times as long.",
        f"at H = 64 its step takes {times(large['gru_xp'])} µs, the cell's "
        f"{times(step(AVX512, 1, 64)['gru_xp'])}.",
        f"a step of 8 rows at H = 64 takes {times(rows['gru_xp'])} µs, a step of one row "
        f"{times(row['gru_xp'])}.",
        f"Here they took {times(of(AVX512, 2, MIDDLE, 'forward')['gru_xp'])},",
        f"the forward at {MIDDLE} is at "
        f"{two(of(AVX512, 1, MIDDLE, 'forward')['onnxruntime']['ratio'])} on AVX-512 and at "
        f"{two(of(AVX2, 1, MIDDLE, 'forward')['onnxruntime']['ratio'])} on AVX2.",
        f"at {LARGEST}, one thread, torch's training is at "
        f"{two(of(AVX512, 1, LARGEST, 'training')['torch']['ratio'])} on AVX-512 and at "
        f"{two(of(AVX2, 1, LARGEST, 'training')['torch']['ratio'])} on AVX2.",
        f"it is at {portable[0]} on one thread and at {portable[1]} on two.",
        f"On the Xeon with two threads torch was at {two(xeon['ratio'])}.",
        f"torch's step at H = 16 is at {two(draw.in_torch(step('bench-torch.json', 1, 16)))}.",
        f"On AVX2, one thread, torch is at {two(slowest[0])} for 16, 64, 256 and 512 units.",
        f"cuDNN is at {two(gpu('forward'))} in the forward pass, and at {two(gpu('training'))} in",
        f"A training step takes {two(min(memory()))} to {two(max(memory()))} of torch's memory.",
    ]


@pytest.mark.parametrize("sentence", sentences())
def test_the_numbers_of_a_sentence_are_those_of_the_files(sentence: str) -> None:
    assert sentence in " ".join(text("docs/speed.md").split())


def test_the_table_of_ways_on_a_gpu_is_that_of_the_cost_model(machine: Machine) -> None:
    from gru_xp_cupy.choices import GATES, MANY, expected
    from gru_xp_cupy.plan import Device, Problem, plan

    hopper, gates = Device(132, 227 << 10, 90), GATES["persistent_forward"]
    found = re.findall(
        r"^\| (float16|TF32|float32), H = (\d+) \| (.*) \|$", text("docs/speed.md"), re.MULTILINE
    )
    rows = [each for each in found if "one launch" in each[2] or "kernel a step" in each[2]]
    assert len(rows) == 8
    for precision, size, cells in rows:
        for count, cell in zip((1, 16, 64, 256), cells.split(" | "), strict=True):
            problem = Problem(count, int(size), precision.replace("TF", "tf"), gates)
            one = expected(plan(problem, hopper), problem, hopper).favours_one_launch(MANY)
            assert cell == ("one launch" if one else "a kernel a step"), (precision, size, count)


def test_the_code_that_compares_two_files_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT / "docs")
    (block,) = re.findall(r"```python\n(.*?)```", text("docs/speed.md"), re.DOTALL)
    exec(compile(block, "docs/speed.md", "exec"), {})
    out = capsys.readouterr().out
    assert "1 forward 100 1 64 64 time 1.11, ratio to torch 14.31 and 13.93\n" in out
    assert out.count("\n") == 48


# --- Figures


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_is_drawn_from_the_files_as_they_are(name: str) -> None:
    path = ROOT / "docs" / name
    with Image.open(path) as image:
        assert image.info["Source"] == draw.fingerprint(draw.FIGURES[name]())
    assert path.stat().st_size < 80_000


@pytest.mark.parametrize("name", ["speed-h200.png", "stream.png"])
def test_a_figure_can_be_drawn_again(name: str, tmp_path: Path) -> None:
    draw.draw(name, tmp_path)
    with Image.open(tmp_path / name) as again, Image.open(ROOT / "docs" / name) as committed:
        assert again.info["Source"] == committed.info["Source"]


def test_every_figure_is_on_the_page_and_described() -> None:
    images = re.findall(r"!\[(.*?)\]\((.*?)\)", text("docs/speed.md"), re.DOTALL)
    assert sorted(name for _, name in images) == sorted(draw.FIGURES)
    assert all(len(alt) > 50 for alt, _ in images)
