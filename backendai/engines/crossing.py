"""The way into a sandbox that runs: what a forked child does until it is inside like everybody there.

The child becomes the kernel's user first, enters the user namespace that owns the others, then those, and
forks: only a child of it is in the process namespace. That one enters the kernel's own user namespace, gives
up every capability it got on the way, and puts itself under the filter of system calls. Nobody inside can
look into it meanwhile, because it cannot be traced; only what it executes in the end can.

Plain and synchronous: nothing of the parent's event loop may be touched after ``fork``.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from backendai.engines import seccomp
from backendai.engines.contract import HOME_INSIDE
from backendai.engines.launch import Constraints
from backendai.engines.namespaces import enter

_NS_GET_USERNS = 0xB701
_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")
_CAPABILITY_VERSION_3 = 0x20080522
_NO_CAPABILITIES = bytes(24)

#: First byte of what the child says on its channel.
ENTERED, FAILED = b"e", b"f"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Handles of a sandbox's namespaces, in the order in which they are entered.

    ``before`` is a network that was there before the sandbox, with who owns it; only ``outer`` are entered as
    the kernel's user.
    """

    before: tuple[int, ...]
    outer: tuple[int, ...]
    inner: int | None

    @classmethod
    def of(cls, pid: int) -> Namespaces:
        """Open those that a process has for itself. Raises :class:`OSError`."""
        with ExitStack() as undo:

            def keep(handle: int) -> int:
                undo.callback(os.close, handle)
                os.set_inheritable(handle, False)
                return handle

            opened = {
                name: keep(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
                for name in ("user", *_NAMESPACES)
                if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
            }
            user = opened.pop("user")
            owner = keep(fcntl.ioctl(opened["mnt"], _NS_GET_USERNS))
            before: tuple[int, ...] = ()
            if "net" in opened:
                lender = keep(fcntl.ioctl(opened["net"], _NS_GET_USERNS))
                if not os.path.sameopenfile(lender, owner):
                    ours = os.path.samestat(os.fstat(lender), os.stat("/proc/self/ns/user"))
                    before = (opened.pop("net"),) if ours else (lender, opened.pop("net"))
                if lender not in before:
                    os.close(lender)
            undo.pop_all()
        return cls(before=before, outer=(owner, *opened.values()), inner=user)

    def close(self) -> None:
        for handle in (*self.before, *self.outer, self.inner):
            if handle is not None:
                os.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What makes a process one of the sandbox's."""

    namespaces: Namespaces
    constraints: Constraints


def cross(passage: Passage, channel: socket.socket, errand: Callable[[], None]) -> NoReturn:
    """In a forked child: have ``errand`` called inside, wait for its end, and end as it did.

    Says on ``channel``, each a message: :data:`ENTERED` and the number of the process inside as it is
    outside, or :data:`FAILED` and why.
    """
    code = 1
    try:
        _forget_the_parent()
        # Opened by who may; the process inside joins, for the waiting one is no part of the kernel.
        entrances = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in passage.constraints.entrances]
        for handle in passage.namespaces.before:
            enter(handle)
        _become(passage.constraints.uid)
        for handle in passage.namespaces.outer:
            enter(handle)
        if (inside := os.fork()) == 0:
            _arrive(passage, entrances)
            errand()
            code = 0
        else:
            channel.send(ENTERED + str(inside).encode())
            channel.close()
            code = shell_code(os.waitpid(inside, 0)[1])
    except OSError as error:
        with suppress(OSError):
            channel.send(FAILED + str(error).encode())
    finally:
        # Whatever happened, this copy of the parent must not go on as a second one.
        os._exit(code)


def _forget_the_parent() -> None:
    gc.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_DUMPABLE, 0)


def _arrive(passage: Passage, entrances: list[int]) -> None:
    for entrance in entrances:
        os.write(entrance, b"0")
    for kind, value in passage.constraints.rlimits.items():
        resource.setrlimit(kind, (value, value))
    if passage.namespaces.inner is not None:
        enter(passage.namespaces.inner)
    resource.setrlimit(resource.RLIMIT_NPROC, (passage.constraints.pids,) * 2)
    _give_up_capabilities()
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.umask(0o022)
    os.chdir(HOME_INSIDE)
    if (filter_code := seccomp.program_here()) is not None:
        seccomp.apply(filter_code)


def _give_up_capabilities() -> None:
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(int(_LAST_CAP.read_text()) + 1):
        _prctl(_PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, _NO_CAPABILITIES), "cannot give up capabilities")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), "cannot change the process")


def _check(result: int, failure: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{failure}: {os.strerror(number)}")


def shell_code(status: int) -> int:
    """What a shell would call the exit of a process that was waited for: 128 + signal, if it was one."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
