"""An unprivileged user id for each live kernel of this host, when we run as root.

A number of its own keeps a kernel apart from every other even where the sandbox should fail. Claims are file
locks, so the claim of a process that died is free again at once.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

#: Away from accounts, systemd's dynamic users and the ranges handed out for user namespaces.
_FIRST_UID = 2_000_000_000
_COUNT = 4096
_CLAIMS = Path("/run/backendai-uids")


class NoIdentityLeft(Exception):
    """Every user id of the range is taken."""


@dataclass(frozen=True, slots=True)
class Identity:
    """``uid`` serves as group id too. Held until :meth:`release` or the end of the process."""

    uid: int
    _lock: int

    def release(self) -> None:
        os.close(self._lock)


def claim_identity() -> Identity:
    """Raises :class:`NoIdentityLeft`, or :class:`OSError` when claims cannot be written."""
    _CLAIMS.mkdir(mode=0o700, exist_ok=True)
    first = _first_uid()
    start = secrets.randbelow(_COUNT)
    for step in range(_COUNT):
        uid = first + (start + step) % _COUNT
        lock = os.open(_CLAIMS / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return Identity(uid, lock)
    raise NoIdentityLeft(f"all {_COUNT} user ids from {first} on are taken")


def _first_uid() -> int:
    """In a container only some ids exist; then the last ones of those."""
    highest = 0
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _outside, count = map(int, line.split())
        highest = max(highest, inside + count - 1)
    return _FIRST_UID if highest >= _FIRST_UID + _COUNT else max(1000, highest - _COUNT)
