"""Kernels for Bash, C and C++. The directory is shown inside the sandbox; nothing else of ours is."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
#: To be executed by any Python that has ipykernel, with the language (``bash``, ``c``, ``cpp``) and ``-f
#: {connection_file}``.
LAUNCHER = DIRECTORY / "launch.py"
