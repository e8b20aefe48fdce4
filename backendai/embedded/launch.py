"""Starts one child of ``up``: run as a script, becomes the program it is given.

``python -I -S launch.py PARENT_PID DEATH_SIGNAL UID CAPABILITY PROGRAM [ARGUMENT...]``

It exists because what a child needs before its ``exec`` (a parent-death signal, another user, a capability)
may not be done in a ``preexec_fn``: that runs between fork and exec of a threaded process and can deadlock.
``UID`` and ``CAPABILITY`` are ``-`` where nothing changes. Exit status 112: the parent died before the child
was safe.
"""

import ctypes
import os
import sys

PARENT_GONE = 112
_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(ctypes.c_int(option), *padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def become(uid: int, capability: int | None) -> None:
    """Become ``uid`` (user and group, nothing else); keep at most one capability, through ``exec`` too."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    if capability is not None:
        # Else the change of user takes all capabilities away, and access(2), which programs ask before they
        # try, goes on ignoring the one that is kept.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setresuid(uid, uid, uid)
    if capability is None:
        return
    bits = 1 << capability
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable; first the low words, then the high ones
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    if _libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def main(arguments: list[str]) -> None:
    parent, death_signal, uid, capability, *command = arguments
    if uid != "-":
        become(int(uid), None if capability == "-" else int(capability))
    # Last, because a change of user clears it.
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent):
        sys.exit(PARENT_GONE)
    os.execv(command[0], command)  # noqa: S606  (a list, no shell)


if __name__ == "__main__":
    main(sys.argv[1:])
