"""Start bwrap: join the control groups, give up every privilege, only then execute it.

As root, bwrap must not run as root: hostile code would be user 0 of the host behind nothing but the
namespaces. So the child first opens a mount namespace of its own and lays the directories it needs into a
staging place that an unprivileged user may enter (they may lie under /root), and then becomes that user for
good. As an ordinary user bwrap is simply executed. Either way it creates a user namespace without any
capability outside.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trio

from backendai.engines import bubblewrap, seccomp
from backendai.engines.contract import SandboxFailed
from backendai.engines.namespaces import NEW_MOUNTS, unshare
from backendai.engines.plugging import Seat, take_seat

_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_MS_BIND, _MS_REC, _MS_SLAVE = 4096, 16384, 1 << 19
#: Exists everywhere; covered in the child's own mount namespace only.
_STAGE = "/tmp"  # noqa: S108
_INFO_BYTES = 4096
#: Seconds bwrap may take to set up the sandbox.
_SETUP_TIMEOUT = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Launched:
    """``process`` is bwrap itself; ``init_pid`` is process 1 of the sandbox, by its number outside."""

    process: subprocess.Popen[bytes]
    init_pid: int
    output: trio.lowlevel.FdStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """``uid`` is the user to become, ``None`` stays who we are. ``entrances``: control group files to write 0
    to.

    ``rlimits``: resource to value. ``pids`` bounds the number of processes inside.
    """

    uid: int | None
    entrances: Sequence[Path]
    rlimits: dict[int, int]
    pids: int


async def launch(
    plan: bubblewrap.Plan, argv: Sequence[str], constraints: Constraints, seat: Seat | None = None
) -> Launched:
    """Execute ``argv`` in the planned sandbox. Raises :class:`SandboxFailed` with what bwrap said.

    With a ``seat`` the plan must share the network, which is then that of the seat.

    Must be called from the main thread: the kernel ends bwrap with the thread that started it.
    """
    with ExitStack() as ours, ExitStack() as theirs:
        output_read, output_write = _pipe(ours, theirs)
        info_read, info_write = _pipe(ours, theirs)
        block_read, block_write = _pipe(theirs, ours)
        stage = _Stage(plan.sources) if constraints.uid is not None else None
        places = stage.places if stage else [str(path.absolute()) for path in plan.sources]
        options: list[str] = []
        passed = [info_write, block_read]
        for destination, content in plan.files:
            passed.append(_memory_file(theirs, content))
            options += ["--perms", "0644", "--file", str(passed[-1]), destination]
        options += plan.resolve(places)
        for destination, mode, content in plan.home_files:
            passed.append(_memory_file(theirs, content))
            options += ["--perms", f"{mode:04o}", "--file", str(passed[-1]), destination]
        if (filter_code := seccomp.program_here()) is not None:
            passed.append(_memory_file(theirs, filter_code))
            options += ["--seccomp", str(passed[-1])]
        options += ["--info-fd", str(info_write), "--block-fd", str(block_read)]
        passed.append(_memory_file(theirs, b"".join(os.fsencode(word) + b"\0" for word in options)))
        try:
            process = _execute(passed, argv, output_write, lambda: _become(constraints, stage, seat), stage)
            theirs.close()
            init_pid = await _started(process, info_read, block_write, constraints)
        except (OSError, subprocess.SubprocessError, ValueError, trio.TooSlowError) as error:
            theirs.close()
            said = _read_all(output_read) or str(error)
            raise SandboxFailed("start-failed", f"cannot set up the sandbox: {said}") from error
        output = trio.lowlevel.FdStream(os.dup(output_read))
    return Launched(process, init_pid, output)


def _execute(
    passed: Sequence[int],
    argv: Sequence[str],
    output: int,
    become: Callable[[], None],
    stage: _Stage | None,
) -> subprocess.Popen[bytes]:
    """Start bwrap, which reads its options from the last of the descriptors passed."""
    return subprocess.Popen(
        ["bwrap", "--args", str(passed[-1]), "--", *argv],
        executable=stage.bwrap if stage else str(bubblewrap.executable()),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={},
        pass_fds=passed,
        preexec_fn=become,
    )


async def _started(process: subprocess.Popen[bytes], info: int, block: int, constraints: Constraints) -> int:
    """See the sandbox come up and let the command go. On any failure the process is ended."""
    try:
        init_pid = await _init_pid(info)
        if constraints.uid is None:
            # Processes are counted per user, and this user has others. But the user namespace has a count of
            # its own, which decides when the limit is set now that the namespace exists.
            resource.prlimit(init_pid, resource.RLIMIT_NPROC, (constraints.pids, constraints.pids))
        os.write(block, b"\n")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return init_pid


def _become(constraints: Constraints, stage: _Stage | None, seat: Seat | None) -> None:
    """In the child, before bwrap. What fails is told on its standard error, ``subprocess`` only says that it
    did.
    """
    try:
        for entrance in constraints.entrances:
            entrance.write_text("0")
        for kind, value in constraints.rlimits.items():
            resource.setrlimit(kind, (value, value))
        os.umask(0o022)
        if stage is not None:
            stage.build()
        if seat is not None:
            take_seat(seat)
        if (uid := constraints.uid) is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (constraints.pids, constraints.pids))
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        else:
            forget_ambient_capabilities()
    except OSError as error:
        os.write(2, f"{error}\n".encode())
        raise


def forget_ambient_capabilities() -> None:
    """Have nothing of ours reach what is executed: a service that may bind low ports passes that right on to
    all that it starts, and bwrap refuses to run with rights that it cannot explain.
    """
    if _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot give up ambient capabilities")


class _Stage:
    """Sources an unprivileged user could not reach, bound below one directory anybody may enter.

    Only in the child's own mount namespace. bwrap itself may be such a source.
    """

    def __init__(self, sources: Sequence[Path]) -> None:
        self._binds: list[tuple[str, str]] = []
        self.places = [self._place(os.path.abspath(path), f"{_STAGE}/{n}") for n, path in enumerate(sources)]
        program = bubblewrap.executable()
        package = program.parents[1]
        # bwrap looks for its library beside its package.
        libraries = package.with_name(package.name + ".libs")
        self.bwrap = str(program)
        if not _reachable(str(program)):
            self._binds += [
                (str(path), f"{_STAGE}/{path.name}") for path in (package, libraries) if path.exists()
            ]
            self.bwrap = f"{_STAGE}/{package.name}/{program.relative_to(package)}"

    def _place(self, path: str, staged: str) -> str:
        if _reachable(path):
            return path
        self._binds.append((path, staged))
        return staged

    def build(self) -> None:
        unshare(NEW_MOUNTS)
        _mount("none", "/", None, _MS_REC | _MS_SLAVE)
        opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path, _ in self._binds]
        _mount("tmpfs", _STAGE, "tmpfs", 0, "mode=755,size=1m")
        for handle, (_, place) in zip(opened, self._binds, strict=True):
            source = f"/proc/self/fd/{handle}"
            if os.path.isdir(source):
                os.mkdir(place, 0o755)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
            _mount(source, place, None, _MS_BIND | _MS_REC)


def _reachable(path: str) -> bool:
    """Whether anybody may walk to ``path``, and the stage does not cover it."""
    real = Path(os.path.realpath(path))
    if real.is_relative_to(_STAGE):
        return False
    try:
        return all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
    except OSError:  # not there: whoever binds it will say so
        return False


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    if _libc.mount(*arguments, flags, None if data is None else data.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount {target}")


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _read_all(pipe: int) -> str:
    """What the writers, who are gone, left in the pipe."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, _INFO_BYTES).decode(errors="replace").strip()
    except BlockingIOError:
        return ""


def _memory_file(stack: ExitStack, content: bytes) -> int:
    handle = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    stack.callback(os.close, handle)
    os.write(handle, content)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


async def _init_pid(info: int) -> int:
    """What bwrap tells once the namespaces exist. Raises :class:`ValueError` when it ended without."""
    os.set_blocking(info, False)
    text = b""
    with trio.fail_after(_SETUP_TIMEOUT):
        while b"}" not in text:
            await trio.lowlevel.wait_readable(info)
            piece = os.read(info, _INFO_BYTES)
            if not piece:
                raise ValueError("bwrap ended")
            text += piece
    return int(json.loads(text)["child-pid"])
