"""The system calls about namespaces, for processes that have one thread: children between fork and exec."""

from __future__ import annotations

import ctypes
import os

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: int) -> None:
    """Raises :class:`OSError`."""
    _check(_libc.setns(namespace, 0), "cannot enter the namespace")


def unshare(kinds: int) -> None:
    """Be in new namespaces of these kinds. Raises :class:`OSError`."""
    _check(_libc.unshare(kinds), "cannot make a namespace")


def _check(result: int, failure: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{failure}: {os.strerror(number)}")
