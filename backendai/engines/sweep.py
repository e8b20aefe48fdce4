"""Remove what runners that were killed left on the host."""

from __future__ import annotations

import os
import re
from pathlib import Path

from backendai.engines.cgroups import ControlGroups, find_hierarchies

#: A sandbox is named after its kernel and the process that keeps it.
_NAME = re.compile(r"[0-9a-f-]{36}-(\d+)")
_RUNNER_MODULE = b"backendai.runner.zygote"


def sweep_leftovers() -> list[str]:
    """Kill what lives on in control groups of dead runners and remove the groups; returns the names of those
    found.

    Synchronous, some milliseconds. A group that is not empty at once goes with the next sweep.
    """
    hierarchies = find_hierarchies()
    names = {entry.name for root in hierarchies.roots for entry in root.iterdir() if entry.is_dir()}
    stale = sorted(
        name for name in names if (match := _NAME.fullmatch(name)) and not _is_runner(int(match[1]))
    )
    for name in stale:
        groups = ControlGroups(hierarchies, name)
        groups.kill()
        groups.try_remove()
    return stale


def _is_runner(pid: int) -> bool:
    """Runners are forked from the zygote, and keep its command line."""
    try:
        os.kill(pid, 0)
        return _RUNNER_MODULE in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:  # somebody else's
        return True
