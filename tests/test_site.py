"""The documentation site: it builds without a warning, and a browser finds nothing wrong in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

import gru_xp

ROOT = Path(__file__).parents[1]
ADDRESS = "http://site.localhost"
"""Where the browser believes that the pages are; no server runs, they are read from the disk."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = (
    "sphinx",
    "numpydoc",
    "myst_nb",
    "pydata_sphinx_theme",
    "math_core",
    "ziamath",
    "onnx",
    "torch",
)

LOOK = """() => {
    const all = (css) => Array.from(document.querySelectorAll(css));
    const boxes = all("math").map((each) => each.getBoundingClientRect());
    const page = document.body.cloneNode(true);
    page.querySelectorAll("pre, code, script, style").forEach((each) => each.remove());
    return {
        title: document.title,
        ids: all("[id]").map((each) => each.id),
        links: all("a[href]").map((each) => each.href),
        images: all("img").filter((each) => !each.complete || !each.naturalWidth)
            .map((each) => each.src),
        formulas: boxes.length,
        level: all("math msub").map((each) => Array.from(each.children,
            (part) => part.getBoundingClientRect().bottom)
        ).filter(([base, below]) => below <= base).length,
        flat: boxes.filter((box) => box.width <= 0 || box.height <= 0).length,
        text: page.textContent,
    };
}"""


class Site(NamedTuple):
    """The built site, and what a browser saw of each of its pages."""

    folder: Path
    browser: Any
    seen: dict[str, dict[str, Any]]
    """By a page's path in the folder."""
    complaints: list[str]
    """Errors in the console, requests that failed, and those for another server."""

    def open(self, path: str) -> Any:
        """Open a page, which can reach this site alone."""
        page = self.browser.new_page()

        def note(what: str) -> None:
            self.complaints.append(f"{path}: {what}")

        def log(kind: str, text: str) -> None:
            if kind in ("error", "warning"):
                note(text)

        def answer(route: Any) -> None:
            url = route.request.url
            file = self.folder / self.path(url)
            if not url.startswith(f"{ADDRESS}/"):
                note(f"asked for {url}")
                route.abort()
            elif file.is_file():
                route.fulfill(path=file)
            else:
                note(f"{url} is not there")
                route.fulfill(status=404)

        page.route("**/*", answer)
        page.on("console", lambda each: log(each.type, each.text))
        page.on("pageerror", lambda error: note(str(error)))
        page.on("requestfailed", lambda each: note(f"{each.url} failed"))
        page.goto(f"{ADDRESS}/{path}", wait_until="networkidle")
        return page

    def path(self, url: str) -> str:
        """Return the path of a page or another file in the folder."""
        return unquote(urlsplit(url).path).lstrip("/") or "index.html"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [*command, "-d", f"{out}/doctrees", ".", f"{out}/html"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[docs]'"
    )
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"there is no Chromium, none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start as root, as whom containers run; the pages are ours.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        site = Site(folder, browser, {}, [])
        pages = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*.html"))
        for path in pages:
            if path != "index.html" and not path.startswith("_static"):  # a redirection, templates
                page = site.open(path)
                site.seen[path] = page.evaluate(LOOK)
                page.close()
        yield site
        browser.close()


def test_every_page_loads_without_an_error_and_from_here_alone(site: Site) -> None:
    assert len(site.seen) > 20
    assert site.complaints == []


def test_no_link_anchor_or_image_is_broken(site: Site) -> None:
    broken = [f"{path}: {image}" for path, each in site.seen.items() for image in each["images"]]
    for path, each in site.seen.items():
        for link in each["links"]:
            if not link.startswith(f"{ADDRESS}/"):
                continue
            target, anchor = site.path(link), unquote(urlsplit(link).fragment)
            if target in site.seen:
                if anchor and anchor not in site.seen[target]["ids"]:
                    broken.append(f"{path}: {link}")
            elif not (site.folder / target).is_file():
                broken.append(f"{path}: {link}")
    assert broken == []


def test_the_first_page_leads_to_all_others(site: Site) -> None:
    found, todo = set(), ["docs/index.html"]
    while todo:
        path = todo.pop()
        if path in found or path not in site.seen:
            continue
        found.add(path)
        todo += [site.path(link) for link in site.seen[path]["links"] if link.startswith(ADDRESS)]
    assert found | {"genindex.html", "py-modindex.html", "search.html"} == set(site.seen)


def test_every_notebook_is_a_page(site: Site) -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"notebooks/{notebook.stem}.html" in site.seen


def test_formulas_are_drawn_and_no_tex_is_left(site: Site) -> None:
    assert site.seen["docs/equations.html"]["formulas"] > 30
    assert site.seen["notebooks/01_gru_cell_by_hand.html"]["formulas"] > 50
    for path, each in site.seen.items():
        assert each["flat"] == 0, path
        assert each["level"] == 0, f"{path}: subscripts that are not below; no font for formulas?"
        for tex in ("$", "\\frac", "\\odot", "\\begin", "\\("):
            assert tex not in each["text"], path


def test_the_search_finds_the_cell(site: Site) -> None:
    page = site.open("search.html?q=GRUCell")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "all => all.map((each) => each.href)")
    page.close()
    assert any("docs/api/gru_xp.html" in each for each in found)
    assert site.complaints == []


def test_the_root_leads_to_the_first_page_which_shows_the_version(site: Site) -> None:
    page = site.open("")
    page.wait_for_url("**/docs/index.html")
    assert gru_xp.__version__ in page.text_content("header")
    page.close()


def test_a_phone_shows_no_page_wider_than_it_is(site: Site) -> None:
    wide = []
    page = site.open("docs/index.html")
    page.set_viewport_size({"width": 390, "height": 844})
    for path in site.seen:
        page.goto(f"{ADDRESS}/{path}", wait_until="load")
        width = page.evaluate("() => document.documentElement.scrollWidth")
        if width > 390:
            wide.append(f"{path}: {width}")
    page.close()
    assert wide == []
