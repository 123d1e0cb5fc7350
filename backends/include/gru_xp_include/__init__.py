"""Headers for C++ and CUDA compilers, as a package so that they can be located when installed."""

from pathlib import Path

FOLDER = Path(__file__).parent
