"""The processes of one sandbox as /proc shows them: the measure where no control groups are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
#: Number of the system call read(2).
_READ = {"x86_64": "0", "aarch64": "63"}.get(os.uname().machine)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessSums:
    """Sums over all processes: milliseconds, bytes. Processes that ended are not in them."""

    cpu_ms: float = 0.0
    memory: int = 0
    read: int = 0
    written: int = 0
    count: int = 0


def sum_of_namespace(init_pid: int) -> ProcessSums:
    """Sum over every process in the pid namespace whose process 1 is ``init_pid``."""
    try:
        namespace = os.readlink(f"/proc/{init_pid}/ns/pid")
    except OSError:
        return ProcessSums()
    cpu = 0.0
    memory = read = written = count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{entry}/ns/pid") != namespace:
                continue
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            io = dict(line.split(": ") for line in Path("/proc", entry, "io").read_text().splitlines())
        except OSError:  # ended meanwhile, or not ours to see
            continue
        cpu += (int(fields[11]) + int(fields[12])) * 1000 / _TICKS
        memory += int(fields[21]) * _PAGE
        read += int(io["read_bytes"])
        written += int(io["write_bytes"])
        count += 1
    return ProcessSums(cpu, memory, read, written, count)


def children_of(pid: int) -> list[int]:
    """Direct children, oldest first."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def blocked_in_reading(pid: int, pipe: int) -> bool:
    """Whether a process or one of its descendants waits in read(2) of the pipe, its standard input.

    Never on processors whose system calls we do not know.
    """
    pending = [pid]
    while pending:
        current = pending.pop()
        pending += children_of(current)
        try:
            if os.stat(f"/proc/{current}/fd/0").st_ino != pipe:
                continue
            call = Path(f"/proc/{current}/syscall").read_text().split()
        except OSError:  # ended meanwhile, or not ours to see
            continue
        if call[0] == _READ and call[1] == "0x0":
            return True
    return False
