"""The filter of system calls that every process of a sandbox runs under, as a BPF program for the kernel.

Namespaces and the lack of capabilities already refuse most of what is listed here. The filter stands before
them: code of the host's kernel that no computation needs cannot be reached, and so cannot be broken. It
refuses by name rather than admits by name, because a compute session may run any program; what is newer than
this list does not exist inside until somebody has looked at it.

Read by :mod:`backendai.engines.launch` for what starts with the sandbox, and by
:mod:`backendai.engines.crossing` for what enters it later. Sources: linux/seccomp.h, linux/filter.h and
linux/audit.h; the numbers are those of asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PR_SET_SECCOMP = 22
_MODE_FILTER = 2

_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS, _EAFNOSUPPORT = (
    _ERRNO | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT)
)

#: Operations of BPF: load a word of what describes the call, compare it with a constant, answer.
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x25, 0x45, 0x06
#: Where that description has the number, the architecture, and the lower halves of the arguments.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

#: Of Linux 6.18, on every architecture.
_LAST_KNOWN = 469

#: Name to number on x86_64 and on aarch64, where it exists there. Refused whatever the arguments.
_REFUSED: dict[str, tuple[int, int | None]] = {
    # file systems and the view of them
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265), "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "nfsservctl": (180, 42), "fanotify_init": (300, 262),
    "ustat": (136, None), "sysfs": (139, None),
    # namespaces
    "setns": (308, 268),
    # programs, modules and keys in the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "create_module": (174, None), "query_module": (178, None), "get_kernel_syms": (177, None),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # the machine
    "reboot": (169, 142), "settimeofday": (164, 170), "clock_settime": (227, 112), "syslog": (103, 116),
    "acct": (163, 89), "lookup_dcookie": (212, 18), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "_sysctl": (156, None),
}  # fmt: skip

#: Answered as by a kernel without them, for which every caller has another way: the flags of clone3 are in
#: memory, where no filter can look, and libraries go on with clone.
_ABSENT: dict[str, tuple[int, int | None]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip

#: Calls of which it depends on the arguments.
_CLONE, _UNSHARE, _IOCTL, _PERSONALITY, _SOCKET = (56, 220), (272, 97), (16, 29), (135, 92), (41, 198)
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET; for unshare CLONE_NEWTIME too.
_NEW_NAMESPACES = 0x7E020000
_NEW_TIME_NAMESPACE = 0x80
#: TIOCSTI and TIOCLINUX put input into a terminal, as if its user had typed it.
_TYPING = (0x5412, 0x541C)
#: Linux, its 32-bit name, old version numbers, a debugger's fixed addresses, and the question which it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
#: AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK. Others are no business of the network namespace (AF_VSOCK
#: reaches the host of a virtual machine), or rarely used parts of the kernel.
_FAMILIES = (1, 2, 10, 16)

#: Name of a machine to its place in the tables, and its AUDIT_ARCH.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Step:
    """One instruction: ``then`` and ``other`` are how many to skip as the comparison holds or not."""

    operation: int
    value: int
    then: int = 0
    other: int = 0

    def encoded(self) -> bytes:
        return struct.pack("=HBBI", self.operation, self.then, self.other, self.value)


def program(machine: str) -> bytes | None:
    """The filter for a machine as ``uname -m`` names it, or None when there is none for it."""
    if machine not in _MACHINES:
        return None
    place, architecture = _MACHINES[machine]
    steps = [
        _Step(_LOAD, _ARCHITECTURE),
        *_unless(_EQUAL, architecture, [_Step(_ANSWER, _KILL_PROCESS)]),
        _Step(_LOAD, _NUMBER),
        # The calls of x32 have numbers above all others too.
        *_when(_GREATER, _LAST_KNOWN, [_Step(_ANSWER, _ENOSYS)]),
    ]
    for table, verdict in ((_REFUSED, _EPERM), (_ABSENT, _ENOSYS)):
        for numbers in table.values():
            if (number := numbers[place]) is not None:
                steps += _when(_EQUAL, number, [_Step(_ANSWER, verdict)])
    for numbers, body in (
        (_CLONE, _without_bits(0, _NEW_NAMESPACES)),
        (_UNSHARE, _without_bits(0, _NEW_NAMESPACES | _NEW_TIME_NAMESPACE)),
        (_IOCTL, _among(1, _TYPING, _EPERM, otherwise=_ALLOW)),
        (_PERSONALITY, _among(0, _PERSONALITIES, _ALLOW, otherwise=_EPERM)),
        (_SOCKET, _among(0, _FAMILIES, _ALLOW, otherwise=_EAFNOSUPPORT)),
    ):
        steps += _when(_EQUAL, numbers[place], body)
    steps.append(_Step(_ANSWER, _ALLOW))
    return b"".join(step.encoded() for step in steps)


@functools.cache
def program_here() -> bytes | None:
    """The filter for this host; None when its kernel has no filters, or we have none for its processor."""
    return program(os.uname().machine) if _kernel_has_filters() else None


def apply(code: bytes) -> None:
    """Put the calling thread, and what it starts from now on, under the filter; there is no way back.

    The thread must have given up new privileges before. Raises :class:`OSError`.
    """
    if _set_filter(ctypes.byref(_Program(len(code) // 8, code))) != 0:
        raise OSError(ctypes.get_errno(), "cannot filter system calls")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _set_filter(program: object) -> int:
    return int(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program, 0, 0))


def _kernel_has_filters() -> bool:
    """Offer no program at all: a kernel that knows filters fails to read it, others refuse the request."""
    return _set_filter(None) != 0 and ctypes.get_errno() == errno.EFAULT


def _when(comparison: int, value: int, body: Sequence[_Step]) -> list[_Step]:
    """Do ``body``, which answers, when the comparison holds; else go on behind it."""
    return [_Step(comparison, value, 0, len(body)), *body]


def _unless(comparison: int, value: int, body: Sequence[_Step]) -> list[_Step]:
    return [_Step(comparison, value, len(body), 0), *body]


def _argument(index: int) -> _Step:
    """Of these arguments the kernel itself only looks at the lower half, which comes first in memory."""
    return _Step(_LOAD, _ARGUMENTS + 8 * index)


def _without_bits(index: int, mask: int) -> list[_Step]:
    return [_argument(index), *_when(_ANY_BIT, mask, [_Step(_ANSWER, _EPERM)]), _Step(_ANSWER, _ALLOW)]


def _among(index: int, values: Iterable[int], verdict: int, *, otherwise: int) -> list[_Step]:
    steps = [_argument(index)]
    for value in values:
        steps += _when(_EQUAL, value, [_Step(_ANSWER, verdict)])
    return [*steps, _Step(_ANSWER, otherwise)]
