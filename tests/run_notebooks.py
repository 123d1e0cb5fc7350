"""Execute notebooks from top to bottom: ``python tests/run_notebooks.py [--write] [NOTEBOOK ...]``.

Each notebook runs in a fresh kernel of this Python; the first cell that fails ends the command with
its traceback. ``--write`` stores the executed notebook with nothing in it that depends on when and
where it ran, so that a re-run changes only the outputs that have changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TIMEOUT_SECONDS = 300
ENVIRONMENT = {
    # One thread: stored numbers do not depend on the number of cores, and small products run
    # faster where other programs use the cores too.
    "OPENBLAS_NUM_THREADS": "1",
    # Else Python 3.11 and 3.12 warn that the kernel's debugger cannot see frozen modules.
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path) -> NotebookNode:
    """Run every cell of a notebook in its own folder; CellExecutionError if one fails."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Store an executed notebook; ValueError if a warning would be stored with it."""
    notebook.metadata = nbformat.from_dict(METADATA)  # type: ignore[no-untyped-call]
    for number, cell in enumerate(notebook.cells, start=1):
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise ValueError(f"{path.name}, cell {number}, wrote to stderr:\n{output.text}")
    nbformat.validate(notebook)
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def main() -> int:
    """Run the command; the exit status is 1 where a notebook fails."""
    summary = (__doc__ or "").partition(":")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--write", action="store_true", help="store the executed notebooks")
    arguments = parser.parse_args()

    os.environ.update(ENVIRONMENT)
    paths = arguments.notebooks or sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        print(f"no notebooks in {NOTEBOOKS}", file=sys.stderr)
        return 1
    for path in paths:
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            print(f"{path.name}: failed\n{error}", file=sys.stderr)
            return 1
        if arguments.write:
            write(notebook, path)
        print(f"{path.name}: {'executed and stored' if arguments.write else 'executed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
