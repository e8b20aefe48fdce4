"""Where an embedded server lives: which user it runs as, and whether that user reaches its files.

PostgreSQL refuses to run as root. Root therefore runs it as a user id that nobody else has; the directories
above the data and above the installed programs may well be closed to that user (``/root`` usually is), and
opening them would expose the rest of what is in them. The server gets one capability instead, to read and to
pass, where a directory stands in the way, and nothing at all where none does.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: A range that Linux distributions and systemd leave to nobody.
_UNUSED_UIDS = range(60950, 61100)
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


class NoLodging(Exception):
    """Root may not become another user here, or that user could not reach the files."""


@dataclass(frozen=True, slots=True)
class Lodging:
    """The user of a server; ``uid`` None means: the one we are."""

    uid: int | None = None
    #: Kept by the server in addition, see :mod:`backendai.embedded.launch`.
    capability: int | None = None

    def own(self, path: Path) -> None:
        """Give a file or directory to the server's user."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def own_tree(self, directory: Path) -> None:
        """Give a directory and all below it to the server's user."""
        if self.uid is None:
            return
        for parent, _, files in os.walk(directory):
            self.own(Path(parent))
            for name in files:
                self.own(Path(parent, name))


def find_lodging(directory: Path, *, programs: Iterable[Path]) -> Lodging:
    """Choose the user for a server whose data is in ``directory`` and who runs ``programs`` (files,
    directories).

    An existing data directory keeps its owner. Raises :class:`NoLodging`.
    """
    if os.geteuid() != 0:
        return Lodging()
    programs = tuple(programs)
    uid = _owner(directory) or _unused_uid()
    if all(_open_to_others(path) for path in (directory.parent, *programs)):
        return Lodging(uid)
    held = _effective_capabilities()
    executable = all(path.stat().st_mode & stat.S_IXOTH for path in programs)
    # To read and to pass is the lesser power, but it does not extend to executing a closed file.
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if executable else (_CAP_DAC_OVERRIDE,):
        if held >> capability & 1:
            return Lodging(uid, capability)
    raise NoLodging(
        f"user {uid}, whom PostgreSQL runs as instead of root, cannot reach {directory}: "
        "choose a --data-dir below directories that all users may enter"
    )


def account_with_a_name() -> int:
    """A user id below root that the user database knows; ``initdb`` insists on one.

    Raises :class:`NoLodging` where there is none.
    """
    named = sorted(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0)
    if not named:
        raise NoLodging("the user database names nobody but root; initdb needs one more user")
    return named[0]


def _owner(directory: Path) -> int | None:
    return directory.stat().st_uid or None if directory.exists() else None


def _unused_uid() -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in _UNUSED_UIDS if uid not in taken)


def _open_to_others(path: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
