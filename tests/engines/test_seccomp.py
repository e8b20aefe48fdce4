"""The filter of system calls: what it decides, and that everybody in a sandbox is under it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backendai.core.kernel import KernelLimits
from backendai.engines import seccomp
from backendai.engines.bubblewrap import visible_for
from backendai.engines.contract import SandboxFailed
from backendai.engines.probe import probe_host
from backendai.engines.process import ProcessEngine
from tests.engines.test_entering import said, sandbox
from tests.engines.test_process import kernel_directory, request, run

__all__ = ["kernel_directory"]

_ENVIRON = {"PATH": "/usr/bin:/bin"}
_ALLOWED = 0x7FFF0000
_KILLED = 0x80000000
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: read, execve, mmap, ptrace, futex, memfd_create.
_ORDINARY = {"x86_64": (0, 59, 9, 101, 202, 319), "aarch64": (63, 221, 222, 117, 98, 279)}
#: Flags of clone as the C library gives them.
_THREAD, _FORK = 0x3D0F00, 0x1200011
#: Where the C library's headers have the numbers.
_HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"__NR_(\w+)\s+(\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"define __NR(?:3264)?_(\w+)\s+(\d+)"),
}

#: Run inside: makes calls of every kind and prints how each was answered, 0 or the error number.
_CALLER = """
import ctypes, json, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *map(ctypes.c_long, arguments))
    return ctypes.get_errno()
place = ("x86_64", "aarch64").index(platform.machine())
tables = json.loads(TABLES)
print(json.dumps({name: call(numbers[place], *arguments) for name, numbers, arguments in tables
                  if numbers[place] is not None}))
"""
#: Calls whose arguments decide: name, numbers, arguments, the answer.
_BY_ARGUMENTS = (
    ("a user namespace", (272, 97), (0x10000000,), errno.EPERM),
    ("a time namespace", (272, 97), (0x80,), errno.EPERM),
    ("a file table of its own", (272, 97), (0x400,), 0),
    ("a child in a user namespace", (56, 220), (0x10000011, 0, 0, 0, 0), errno.EPERM),
    ("typing for others", (16, 29), (0, 0x5412, 0), errno.EPERM),
    ("the size of no terminal", (16, 29), (0, 0x5413, 0), errno.ENOTTY),
    ("the personality", (135, 92), (0xFFFFFFFF,), 0),
    ("fixed addresses for a debugger", (135, 92), (0x40000,), 0),
    ("programs as data", (135, 92), (0x400000,), errno.EPERM),
    ("a socket to the hypervisor", (41, 198), (40, 1, 0), errno.EAFNOSUPPORT),
    ("a socket to the kernel's ciphers", (41, 198), (38, 5, 0), errno.EAFNOSUPPORT),
    ("a socket to the neighbours", (41, 198), (1, 1, 0), 0),
    ("a call nobody knows yet", (490, 490), (), errno.ENOSYS),
)


def _decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would make of the program."""
    described = struct.pack("=IIQ6Q", number, architecture or _ARCHITECTURES[machine], 0, *_six(arguments))
    code = seccomp.program(machine)
    assert code is not None
    steps = list(struct.iter_unpack("=HBBI", code))
    accumulator = place = 0
    while True:
        operation, then, other, value = steps[place]
        place += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", described, value)
            case 0x06:
                return int(value)
            case 0x15 | 0x25 | 0x45:
                holds = {
                    0x15: accumulator == value,
                    0x25: accumulator > value,
                    0x45: accumulator & value != 0,
                }[operation]
                place += then if holds else other
            case _:
                raise AssertionError(f"no such operation: {operation:#x}")


def _six(arguments: tuple[int, ...]) -> Iterator[int]:
    # What libraries leave in the upper half of an argument that is an int is none of our business.
    yield from (argument | 0xABC << 32 for argument in arguments)
    yield from (0,) * (6 - len(arguments))


def _refusals(machine: str) -> dict[str, tuple[int, int]]:
    """Name to number and error, of the calls that are refused whatever their arguments."""
    place = list(_ARCHITECTURES).index(machine)
    return {
        name: (number, error)
        for table, error in ((seccomp._REFUSED, errno.EPERM), (seccomp._ABSENT, errno.ENOSYS))
        for name, numbers in table.items()
        if (number := numbers[place]) is not None
    }


@pytest.mark.parametrize("machine", _ARCHITECTURES)
def test_it_decides_as_listed(machine: str) -> None:
    for name, (number, error) in _refusals(machine).items():
        assert _decide(machine, number, 1, 2, 3) == 0x50000 | error, name
    for number in _ORDINARY[machine]:
        assert _decide(machine, number, 1, 2, 3) == _ALLOWED, number
    place = list(_ARCHITECTURES).index(machine)
    for what, numbers, arguments, error in _BY_ARGUMENTS:
        refused = error not in (0, errno.ENOTTY)
        expected = 0x50000 | error if refused else _ALLOWED
        assert _decide(machine, numbers[place], *arguments) == expected, what
    for flags in (_THREAD, _FORK):
        assert _decide(machine, (56, 220)[place], flags) == _ALLOWED
    assert _decide(machine, 0x40000000) == 0x50000 | errno.ENOSYS
    assert _decide(machine, _ORDINARY[machine][0], architecture=0x40000003) == _KILLED


def test_there_is_no_filter_for_an_unknown_machine() -> None:
    assert seccomp.program("riscv64") is None


@pytest.mark.parametrize("machine", _ARCHITECTURES)
def test_the_numbers_are_those_of_the_headers(machine: str) -> None:
    path, pattern = _HEADERS[machine]
    if not Path(path).exists():
        pytest.skip("no headers of the kernel")
    known = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    for name, (number, _) in _refusals(machine).items():
        assert known.get(name, number) == number, name


def _calls() -> tuple[tuple[str, ...], dict[str, int]]:
    """A command that makes all the calls, and what it must print."""
    by_name = (
        (name, numbers, (), error)
        for table, error in ((seccomp._REFUSED, errno.EPERM), (seccomp._ABSENT, errno.ENOSYS))
        for name, numbers in table.items()
    )
    wanted = [*by_name, *_BY_ARGUMENTS]
    tables = json.dumps([case[:3] for case in wanted])
    here = list(_ARCHITECTURES).index(os.uname().machine)
    expected = {name: error for name, numbers, _, error in wanted if numbers[here] is not None}
    return (sys.executable, "-c", _CALLER.replace("TABLES", repr(tables))), expected


async def test_who_starts_with_the_sandbox_is_under_it(kernel_directory: Path) -> None:
    argv, expected = _calls()
    output, exit = await run(request(kernel_directory, "", argv=argv, visible=visible_for(argv, "")))
    assert exit.code == 0, output
    assert json.loads(output) == expected


async def test_who_enters_it_is_under_it_and_so_is_process_1(kernel_directory: Path) -> None:
    argv, expected = _calls()
    async with sandbox(kernel_directory, visible=visible_for(argv, "")) as kernel:
        async with kernel.enter(argv, environ=_ENVIRON) as process:
            assert json.loads(await said(process)) == expected
        async with kernel.enter(("grep", "Seccomp:", "/proc/1/status"), environ=_ENVIRON) as process:
            assert (await said(process)).split() == ["Seccomp:", "2"]
        assert kernel.isolation["syscalls"] == "filtered"


_BUILD = """
printf 'all: it\n\t./it\nit: it.c\n\tgcc -pthread -o it it.c\n' > Makefile
cat > it.c <<END
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *x) { return x; }
int main(void) {
    pthread_t thread;
    int status = 1;
    if (pthread_create(&thread, 0, work, 0) || pthread_join(thread, 0)) return 1;
    if (!fork()) _exit(7);
    wait(&status);
    puts(WEXITSTATUS(status) == 7 ? "well" : "ill");
    return 0;
}
END
make -s
"""


async def test_programs_do_not_notice(kernel_directory: Path) -> None:
    if shutil.which("gcc", path="/usr/bin") is None or shutil.which("make", path="/usr/bin") is None:
        pytest.skip("no compiler")
    output, _ = await run(request(kernel_directory, _BUILD, limits=KernelLimits(pids=50)))
    assert output == "well\n"


async def test_where_there_is_none_that_is_said(
    kernel_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "program_here", lambda: None)
    async with sandbox(kernel_directory) as kernel:
        assert kernel.isolation["syscalls"] == "none"
        async with kernel.enter(("grep", "Seccomp:", "/proc/self/status"), environ=_ENVIRON) as process:
            assert (await said(process)).split() == ["Seccomp:", "0"]
    assert "syscalls" in {lack.name for lack in probe_host().missing}
    with pytest.raises(SandboxFailed, match="syscalls"):
        async with ProcessEngine.of_this_host().open(request(kernel_directory, "", strict=True)):
            pass
