"""Headers for C++ and CUDA compilers; a package, so that they are found where it is installed."""

from pathlib import Path

FOLDER = Path(__file__).parent
