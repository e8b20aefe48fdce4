"""Control groups of one sandbox, version 1 or 2, as the host has them.

A host may mix: each resource is taken from the version 1 hierarchy that has it, otherwise from version 2. All
groups lie in a directory ``backendai`` of their hierarchy, so that leftovers are recognised.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backendai.core.kernel import KernelLimits

PARENT = "backendai"
_CPU_PERIOD_US = 100_000
#: Version 1 controllers joined when present, and what we call the resource.
_V1_CONTROLLERS = {"memory": "memory", "cpu": "cpu", "pids": "pids", "cpuacct": "cpuacct", "blkio": "io"}
_V2_CONTROLLERS = ("memory", "cpu", "pids", "io")


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where groups can be made: resource to parent directory, for the two versions."""

    v1: dict[str, Path]
    v2: Path | None
    v2_controllers: frozenset[str]

    @property
    def roots(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys([*self.v1.values(), *([self.v2] if self.v2 else [])]))

    def version_of(self, resource: str) -> int | None:
        if resource in self.v1:
            return 1
        return 2 if resource in self.v2_controllers else None


def find_hierarchies() -> Hierarchies:
    """Look at the mounts, and prepare the parent directories. Never raises: what is not writable is not
    there.
    """
    v1: dict[str, Path] = {}
    v2: Path | None = None
    controllers: frozenset[str] = frozenset()
    own = _own_groups()
    for mount_point, kind, options in _cgroup_mounts():
        if kind == "cgroup":
            for controller, resource in _V1_CONTROLLERS.items():
                if controller in options and resource not in v1:
                    parent = _make_v1_parent(mount_point, own.get(controller, "/"))
                    if parent is not None:
                        v1[resource] = parent
        elif v2 is None:
            v2, controllers = _make_v2_parent(mount_point, own.get("", "/"), exclude=frozenset(v1))
    return Hierarchies(v1, v2, controllers - frozenset(v1))


def _cgroup_mounts() -> Iterable[tuple[Path, str, list[str]]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            yield Path(before.split(" ")[4]), kind, options.split(",")


def _own_groups() -> dict[str, str]:
    """Controller to the group this process is in; version 2 has the empty name."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _make_v1_parent(mount_point: Path, own: str) -> Path | None:
    # In a container the path of our own group may not exist below the mount, then the mount is our group.
    for base in (mount_point / own.lstrip("/"), mount_point):
        parent = base if base.name == PARENT else base / PARENT
        with suppress(OSError):
            parent.mkdir(exist_ok=True)
            if os.access(parent, os.W_OK):
                return parent
    return None


def _make_v2_parent(
    mount_point: Path, own: str, *, exclude: frozenset[str]
) -> tuple[Path | None, frozenset[str]]:
    """The highest group we may make children in: processes may only live in leaves, so our own will rarely
    do.
    """
    inner = mount_point / own.lstrip("/")
    for base in reversed([inner, *(path for path in inner.parents if path.is_relative_to(mount_point))]):
        if base.name == PARENT or not os.access(base, os.W_OK):
            continue
        with suppress(OSError):
            wanted = set(_V2_CONTROLLERS) & set((base / "cgroup.controllers").read_text().split()) - exclude
            if not wanted:
                continue
            parent = base / PARENT
            parent.mkdir(exist_ok=True)
            if not os.access(base / "cgroup.procs", os.W_OK):
                continue
            enabled = frozenset(c for c in wanted if _enable(base, c) and _enable(parent, c))
            if enabled:
                return parent, enabled
    return None, frozenset()


def _enable(group: Path, controller: str) -> bool:
    try:
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError:
        return False
    return True


class ControlGroups:
    """The groups of one sandbox: :meth:`create` them, join them in the child, :meth:`try_remove` them."""

    def __init__(self, hierarchies: Hierarchies, name: str) -> None:
        self._hierarchies = hierarchies
        self._v1 = {resource: parent / name for resource, parent in hierarchies.v1.items()}
        self._v2 = hierarchies.v2 / name if hierarchies.v2 else None

    @classmethod
    def create(cls, hierarchies: Hierarchies, name: str) -> ControlGroups:
        """Make the groups. Raises :class:`OSError`."""
        groups = cls(hierarchies, name)
        for directory in groups._directories():
            directory.mkdir(exist_ok=True)
        return groups

    def _directories(self) -> list[Path]:
        return list(dict.fromkeys([*self._v1.values(), *([self._v2] if self._v2 else [])]))

    def _file(self, resource: str, v1_name: str, v2_name: str) -> Path | None:
        if resource in self._v1:
            return self._v1[resource] / v1_name
        if self._v2 is not None and resource in self._hierarchies.v2_controllers:
            return self._v2 / v2_name
        return None

    def in_force(self, resource: str) -> str | None:
        version = self._hierarchies.version_of(resource)
        return f"cgroup{version}" if version else None

    def entrances(self) -> list[Path]:
        """Files to which the process that is to join writes ``0``."""
        return [directory / "cgroup.procs" for directory in self._directories()]

    def set_limits(self, limits: KernelLimits) -> None:
        """Raises :class:`OSError`, e.g. when memory in use is above the new limit and cannot be reclaimed."""
        if (file := self._file("memory", "memory.limit_in_bytes", "memory.max")) is not None:
            self._limit_memory(file, limits.memory)
        if (file := self._file("pids", "pids.max", "pids.max")) is not None:
            file.write_text(str(limits.pids))
        quota = max(1000, int(limits.cpu * _CPU_PERIOD_US))
        if "cpu" in self._v1:
            (self._v1["cpu"] / "cpu.cfs_period_us").write_text(str(_CPU_PERIOD_US))
            (self._v1["cpu"] / "cpu.cfs_quota_us").write_text(str(quota))
        elif (file := self._file("cpu", "", "cpu.max")) is not None:
            file.write_text(f"{quota} {_CPU_PERIOD_US}")

    def _limit_memory(self, file: Path, limit: int) -> None:
        if file.name == "memory.max":
            file.write_text(str(limit))
            swap, amount = file.with_name("memory.swap.max"), 0
        else:
            # memory + swap may never be below memory: raise it first, lower it last.
            swap, amount = file.with_name("memory.memsw.limit_in_bytes"), limit
            with suppress(OSError):
                swap.write_text("-1")
            file.write_text(str(limit))
        if swap.exists():
            swap.write_text(str(amount))

    def oom_kills(self) -> int:
        file = self._file("memory", "memory.oom_control", "memory.events")
        return _keyed(file).get("oom_kill", 0) if file else 0

    def cpu_ms(self) -> float | None:
        if "cpuacct" in self._v1:
            return _number(self._v1["cpuacct"] / "cpuacct.usage") / 1e6
        if self._v2 is not None:
            return _keyed(self._v2 / "cpu.stat").get("usage_usec", 0) / 1e3
        return None

    def memory(self) -> tuple[int, int] | None:
        """Bytes in use without cache that can be dropped, and the highest use so far."""
        file = self._file("memory", "memory.usage_in_bytes", "memory.current")
        if file is None:
            return None
        stat = _keyed(file.with_name("memory.stat"))
        droppable = stat.get("total_inactive_file", stat.get("inactive_file", 0))
        peak = self._file("memory", "memory.max_usage_in_bytes", "memory.peak")
        return max(0, _number(file) - droppable), _number(peak) if peak else 0

    def pids(self) -> int | None:
        file = self._file("pids", "pids.current", "pids.current")
        return _number(file) if file else None

    def io(self) -> tuple[int, int] | None:
        """Bytes read from and written to block devices."""
        file = self._file("io", "blkio.throttle.io_service_bytes_recursive", "io.stat")
        if file is None:
            return None
        read = written = 0
        for line in _lines(file):
            words = line.split()
            if len(words) == 3 and words[1] in ("Read", "Write"):
                read += int(words[2]) if words[1] == "Read" else 0
                written += int(words[2]) if words[1] == "Write" else 0
            for word in words[1:]:
                key, _, value = word.partition("=")
                read += int(value) if key == "rbytes" else 0
                written += int(value) if key == "wbytes" else 0
        return read, written

    def kill(self) -> None:
        """End every process in the groups."""
        if self._v2 is not None:
            with suppress(OSError):
                (self._v2 / "cgroup.kill").write_text("1")
        for entrance in self.entrances():
            for pid in _lines(entrance):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def try_remove(self) -> bool:
        """Remove the groups; ``False`` while killed processes are not quite gone. Raises :class:`OSError`."""
        for directory in self._directories():
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # the group is gone
        return []


def _number(file: Path) -> int:
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].isdigit() else 0


def _keyed(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _lines(file))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
