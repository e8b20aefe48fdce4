"""The Python kernel as we start it. The directory is shown inside the sandbox; nothing else of ours is."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
#: To be executed by any Python that has ipykernel, with ``-f {connection_file}``.
LAUNCHER = DIRECTORY / "launch.py"
