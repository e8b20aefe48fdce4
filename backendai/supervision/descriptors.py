"""Open files: how many a process may have."""

from __future__ import annotations

import resource


def allow_many_descriptors() -> int:
    """Raise this process's limit of open files to what the system admits, and answer it.

    Every connection and stream takes one, and the usual soft limit of 1024 stands for programs that use
    ``select``. Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
