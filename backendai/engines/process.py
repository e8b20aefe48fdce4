"""The process engine: kernels are plain processes of this host in a bubblewrap sandbox."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace

import trio

from backendai.core.kernel import KernelLimits, KernelStat
from backendai.engines import bubblewrap, seccomp
from backendai.engines.cgroups import ControlGroups, Hierarchies, find_hierarchies
from backendai.engines.contract import Entered, Sandbox, SandboxExit, SandboxFailed, SandboxRequest
from backendai.engines.crossing import Namespaces, Passage
from backendai.engines.entering import enter, fetch_sockets, send_errand
from backendai.engines.identities import Identity, NoIdentityLeft, claim_identity
from backendai.engines.launch import Constraints, Launched, launch
from backendai.engines.processes import children_of, sum_of_namespace

#: Seconds that killed processes may need to be gone.
_END_TIMEOUT = 5.0
_END_POLL = 0.003


class ProcessEngine:
    """``hierarchies``: the control groups to use, as :func:`find_hierarchies` found them.

    As root, a sandbox gets a user id of its own, which it keeps by its name while the engine lives: what
    is started again under a name finds its files its own.
    """

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.hierarchies = hierarchies
        self._identities: dict[str, Identity] = {}

    @classmethod
    def of_this_host(cls) -> ProcessEngine:
        return cls(find_hierarchies())

    @asynccontextmanager
    async def open(self, request: SandboxRequest) -> AsyncIterator[Sandbox]:
        """See ``contract.Engine``."""
        identity = self._identity(request.name) if os.geteuid() == 0 else None
        groups = self._groups(request)
        try:
            isolation = _isolation(request, groups, identity)
            if request.strict and (missing := [name for name, how in isolation.items() if how == "none"]):
                raise SandboxFailed("isolation-missing", f"cannot enforce: {', '.join(missing)}")
            constraints = Constraints(
                uid=None if identity is None else identity.uid,
                entrances=groups.entrances(),
                rlimits=_rlimits(request.limits, groups),
                pids=request.limits.pids,
            )
            launched = await self._launch(request, constraints)
            sandbox = ProcessSandbox(launched, groups, isolation, constraints)
            try:
                yield sandbox
            finally:
                with trio.CancelScope(shield=True):
                    await sandbox.end()
        finally:
            with trio.CancelScope(shield=True):
                await _remove(groups)

    def _identity(self, name: str) -> Identity:
        if name not in self._identities:
            try:
                self._identities[name] = claim_identity()
            except (NoIdentityLeft, OSError) as error:
                raise SandboxFailed("start-failed", f"no user id for the kernel: {error}") from error
        return self._identities[name]

    def _groups(self, request: SandboxRequest) -> ControlGroups:
        try:
            groups = ControlGroups.create(self.hierarchies, request.name)
            groups.set_limits(request.limits)
        except OSError as error:
            raise SandboxFailed("start-failed", f"cannot set up control groups: {error}") from error
        return groups

    async def _launch(self, request: SandboxRequest, constraints: Constraints) -> Launched:
        if constraints.uid is not None:
            for directory in (request.home, request.ipc):
                os.chown(directory, constraints.uid, constraints.uid)
        return await launch(bubblewrap.plan_sandbox(request), request.argv, constraints, request.seat)


class ProcessSandbox:
    """See ``contract.Sandbox``."""

    def __init__(
        self, launched: Launched, groups: ControlGroups, isolation: dict[str, str], constraints: Constraints
    ) -> None:
        self.output: trio.abc.ReceiveStream = launched.output
        self._process = launched.process
        self._init_pid = launched.init_pid
        self._groups = groups
        self._isolation = isolation
        self._constraints = constraints
        self._namespaces: Namespaces | None = None
        #: Sockets made inside that are not connected yet.
        self._sockets: list[socket.socket] = []
        self._handle = os.pidfd_open(self._process.pid)
        self._init_handle = _open_process(self._init_pid)
        self._measured = (time.monotonic(), 0.0)
        self._memory_peak = 0

    @property
    def isolation(self) -> dict[str, str]:
        return dict(self._isolation)

    async def wait(self) -> SandboxExit:
        while self._process.poll() is None:
            own = os.dup(self._handle)  # so that any number may wait
            try:
                await trio.lowlevel.wait_readable(own)
            finally:
                os.close(own)
        status = self._process.returncode
        code = 128 - status if status < 0 else status
        return SandboxExit(code, out_of_memory=code != 0 and self._groups.oom_kills() > 0)

    def interrupt(self) -> None:
        with suppress(ProcessLookupError):
            # Process 1 leads the group and is immune; its child is the command.
            os.killpg(self._init_pid, signal.SIGINT)
            for pid in children_of(self._init_pid)[:1]:
                if os.getpgid(pid) != self._init_pid:
                    os.kill(pid, signal.SIGINT)

    def kill(self) -> None:
        """The end of process 1 is the end of every process in its namespace; bwrap itself ends after them."""
        _send_kill(self._handle if self._init_handle is None else self._init_handle)

    def set_limits(self, limits: KernelLimits) -> None:
        self._groups.set_limits(limits)
        self._constraints = replace(self._constraints, pids=limits.pids)
        for pid in (self._init_pid, *children_of(self._init_pid)):
            # Without the right to change it (some containers' root), the count of the control group decides
            # alone.
            with suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, resource.RLIMIT_NPROC, (limits.pids, limits.pids))

    def measure(self) -> KernelStat:
        sums = sum_of_namespace(self._init_pid)
        cpu_ms = self._groups.cpu_ms()
        memory = self._groups.memory()
        io = self._groups.io()
        pids = self._groups.pids()
        # Processes that ended are not in the sums, but their work was done.
        used = max(sums.cpu_ms, self._measured[1]) if cpu_ms is None else cpu_ms
        in_use, peak = (sums.memory, 0) if memory is None else memory
        self._memory_peak = max(self._memory_peak, in_use, peak)
        read, written = (sums.read, sums.written) if io is None else io
        return KernelStat(
            cpu_used=used,
            cpu_util=self._utilisation(used),
            mem=in_use,
            mem_max=self._memory_peak,
            io_read=read,
            io_write=written,
            pids=sums.count if pids is None else pids,
        )

    def _utilisation(self, cpu_ms: float) -> float:
        now = time.monotonic()
        then, before = self._measured
        self._measured = (now, cpu_ms)
        return max(0.0, (cpu_ms - before) / (now - then) / 10) if now > then else 0.0

    def enter(
        self, argv: Sequence[str], *, environ: Mapping[str, str], terminal: tuple[int, int] | None = None
    ) -> AbstractAsyncContextManager[Entered]:
        return enter(self._passage(), argv, environ, terminal)

    async def connect(self, port: int) -> trio.SocketStream:
        if not self._sockets:
            self._sockets += await fetch_sockets(self._passage())
        connection = trio.socket.from_stdlib_socket(self._sockets.pop())
        try:
            await connection.connect(("127.0.0.1", port))
        except BaseException:
            connection.close()
            raise
        return trio.SocketStream(connection)

    def errand(self, work: Callable[[socket.socket], None]) -> AbstractAsyncContextManager[trio.SocketStream]:
        return send_errand(self._passage(), work)

    def _passage(self) -> Passage:
        try:
            if self._namespaces is None:
                self._namespaces = Namespaces.of(self._init_pid)
        except OSError as error:
            raise SandboxFailed("enter-failed", f"the sandbox cannot be entered: {error}") from error
        return Passage(namespaces=self._namespaces, constraints=self._constraints)

    async def end(self) -> None:
        """Kill what still lives, and wait until it is gone."""
        self.kill()
        with trio.move_on_after(_END_TIMEOUT):
            await self.wait()
        _send_kill(self._handle)
        self._groups.kill()
        await self.output.aclose()
        for unused in self._sockets:
            unused.close()
        if self._namespaces is not None:
            self._namespaces.close()
        for handle in (self._handle, self._init_handle):
            if handle is not None:
                trio.lowlevel.notify_closing(handle)
                os.close(handle)


def _send_kill(handle: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGKILL)


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


async def _remove(groups: ControlGroups) -> None:
    with trio.move_on_after(_END_TIMEOUT):
        while not groups.try_remove():  # noqa: ASYNC110  nothing tells when the last process is gone
            await trio.sleep(_END_POLL)


def _rlimits(limits: KernelLimits, groups: ControlGroups) -> dict[int, int]:
    chosen = {
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_CORE: 0,
    }
    # Not even every root may raise the hard limits it was started with.
    allowed = {kind: _at_most(value, resource.getrlimit(kind)[1]) for kind, value in chosen.items()}
    # Our own soft limit of data is not the kernel's.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    bounded_by_group = groups.in_force("memory") is not None
    allowed[resource.RLIMIT_DATA] = hard if bounded_by_group else _at_most(limits.memory, hard)
    return allowed


def _at_most(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _isolation(request: SandboxRequest, groups: ControlGroups, identity: Identity | None) -> dict[str, str]:
    """What is in force, mechanism by mechanism; ``none`` names what is not enforced."""
    pids = groups.in_force("pids")
    return {
        "sandbox": "bubblewrap",
        "user": "own namespace" if identity is None else f"own namespace, uid {identity.uid}",
        "syscalls": "none" if seccomp.program_here() is None else "filtered",
        "network": "kernels of the session" if request.seat else "host" if request.network else "isolated",
        "memory": groups.in_force("memory") or "rlimit of each process",
        "cpu": groups.in_force("cpu") or "none",
        "pids": f"{pids}, rlimit" if pids else "rlimit",
        "files": "rlimit",
        "disk": "rlimit of each file, measured",
    }
