"""The life of one kernel in the hands of its runner: start, restarts, end."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from backendai.core.execution import CompletionRequest, RunMode, RunReply, RunRequest
from backendai.core.kernel import STARTUP_RUN, TASK_FINISHED, KernelPhase, KernelSpec, KernelStat
from backendai.core.output import MOST_LOG
from backendai.engines.contract import Engine, Sandbox, SandboxExit, SandboxFailed
from backendai.engines.plugging import SessionNetwork
from backendai.runner import output, scratch
from backendai.runner.batch import Batch
from backendai.runner.channels import IPC_DIRECTORY, open_channels
from backendai.runner.inside import Inside
from backendai.runner.journal import PrintLog
from backendai.runner.kernel import Kernel, KernelRefused
from backendai.runner.request import HOME, describe_end, environment_of, sandbox_request, signal_name
from backendai.runner.runs import Run, RunBook, RunRefused
from backendai.runner.services import Services, service_ports
from backendai.wire import runner as wire
from backendai.wire.runner import RunnerExit, RunnerSpec, RunnerState

#: All that a runner makes in its working directory but the state, which goes last: it tells of the rest.
_FILES = (
    HOME,
    IPC_DIRECTORY,
    wire.JOURNAL,
    wire.SPEC_FILE,
    wire.SOCKET_FILE,
    wire.LOG_FILE,
    wire.OUTPUT_FILE,
)
#: Characters of the log that explain a failed start.
_TAIL = 4096
_DISK_INTERVAL = 5.0
#: A disk measurement may take this share of the time.
_DISK_SHARE = 0.05
#: Seconds for output that is still on its way when the kernel has ended.
_DRAIN = 0.1


class _Ending:
    """Why the present kernel process is to end, or has. The first reason counts; ``None`` is a restart."""

    def __init__(self) -> None:
        self.decided = trio.Event()
        self.exit: RunnerExit | None = None
        self.grace = 0.0

    def decide(self, exit: RunnerExit | None, grace: float = 0.0) -> None:
        if not self.decided.is_set():
            self.exit = exit
            self.grace = grace
            self.decided.set()


class Keeper:
    """Everything about the kernel that can be asked of a runner. The working directory is the kernel's."""

    def __init__(self, spec: RunnerSpec, engine: Engine, network: SessionNetwork | None = None) -> None:
        self._spec = spec
        self._kernel_spec = spec.kernel
        self._engine = engine
        self._network = network
        self._warm = spec.warm
        self._phase = KernelPhase.CREATING
        self._isolation: dict[str, str] = {}
        self._timings: dict[str, float] = {}
        self._exit: RunnerExit | None = None
        self._changed = trio.Event()
        self._ending = _Ending()
        self._kernel: Kernel | None = None
        self._sandbox: Sandbox | None = None
        #: What else goes on in the sandbox; ``None`` while there is none, or it is being taken down.
        self.inside: Inside | None = None
        #: Nobody but us has written into the home directory.
        self._fresh = not any(Path(HOME).iterdir()) if Path(HOME).exists() else True
        self._batch: Batch | None = None
        self._last_stat = KernelStat()
        self._scratch = 0
        self._disposal = trio.Event()
        #: Files that outlast the disposal.
        self._kept_files: tuple[str, ...] = ()
        self._gone = trio.Event()
        Path(HOME).mkdir(mode=0o700, exist_ok=True)
        journal = Path(wire.JOURNAL)
        journal.mkdir(mode=0o700, exist_ok=True)
        # Each of its two files holds what is kept, so that this much can be read whenever they take turns.
        self._log = PrintLog(journal, MOST_LOG)
        self._book = RunBook(journal, spec.kernel.limits.output)

    async def run(self) -> None:
        """Keep the kernel until it has ended for good, and its output until that is disposed of."""
        while True:
            self._ending = _Ending()
            exit = await self._one_process()
            if exit is not None:
                break
            self._set_phase(KernelPhase.RESTARTING)
        if not self._warm:
            output.write(self._book)
        self._exit = msgspec.structs.replace(exit, stat=self._last_stat)
        self._set_phase(KernelPhase.EXITED)
        await self._disposal.wait()
        await self._remove_files()
        self._gone.set()

    # -- one kernel process ----------------------------------------------------------------------------------

    async def _one_process(self) -> RunnerExit | None:
        """Start and keep one process. Returns why it ended, ``None`` to start another."""
        ending = self._ending
        began = time.monotonic()
        await scratch.make_fresh(IPC_DIRECTORY)
        try:
            request = sandbox_request(
                self._kernel_spec,
                self._spec.image,
                self._network,
                fresh=self._fresh,
                strict=self._spec.require_full_isolation,
            )
            self._fresh = False
            async with open_channels() as channels, self._engine.open(request) as sandbox:
                self._timings = {"sandbox": _milliseconds_since(began)}
                self._isolation = sandbox.isolation
                self._sandbox = sandbox
                self._kernel = Kernel(
                    sandbox, channels, self._book, self._log, self._spec.image.interrupt_mode
                )
                await self._attend(sandbox, self._kernel, ending, began)
                self._last_stat = self._measure(sandbox)
        except SandboxFailed as error:
            ending.decide(RunnerExit(reason=error.code, detail=error.detail))
        finally:
            self._kernel = self._sandbox = None
        self._book.end_all(describe_end(ending.exit))
        return ending.exit

    async def _attend(self, sandbox: Sandbox, kernel: Kernel, ending: _Ending, began: float) -> None:
        """Everything that goes on while the process lives; returns when its end is decided."""
        async with trio.open_nursery() as nursery:
            self._batch = Batch(sandbox, self._environment, self._spec.image, self._log)
            nursery.start_soon(kernel.run)
            nursery.start_soon(self._log_output, sandbox)
            nursery.start_soon(self._watch_process, sandbox, ending)
            nursery.start_soon(self._watch_disk, sandbox, ending)
            nursery.start_soon(self._serve, kernel, ending, began)
            services = Services(sandbox, nursery, self._environment, self._spec.image)
            self.inside = Inside(sandbox, nursery, self._environment, self._room, services)
            await ending.decided.wait()
            if ending.grace > 0:
                await kernel.ask_to_end()
                with trio.move_on_after(ending.grace):
                    await sandbox.wait()
            self.inside = None
            nursery.cancel_scope.cancel()

    def _environment(self) -> dict[str, str]:
        return environment_of(self._kernel_spec, self._spec.image)

    def _room(self) -> int:
        """Bytes that the kernel's files may still take."""
        return max(0, self._kernel_spec.limits.disk - self._scratch)

    async def _serve(self, kernel: Kernel, ending: _Ending, began: float) -> None:
        with trio.move_on_after(self._spec.start_timeout) as patience:
            await kernel.become_ready()
        if patience.cancelled_caught:
            detail = f"no answer within {self._spec.start_timeout:g} s\n{self._tail()}"
            ending.decide(RunnerExit(reason="start-timeout", detail=detail.strip()))
            return
        self._timings["ready"] = _milliseconds_since(began)
        self._set_phase(KernelPhase.RUNNING)
        if self._kernel_spec.startup_command and not self._warm:
            self._submit_startup(self._kernel_spec.startup_command)
        await self._execute_runs(kernel, ending)

    def _submit_startup(self, command: str) -> None:
        self._book.forget(STARTUP_RUN)
        self._book.submit(RunRequest(run_id=STARTUP_RUN, mode=RunMode.BATCH, options={"exec": command}))

    async def _execute_runs(self, kernel: Kernel, ending: _Ending) -> None:
        """Take runs from the book one after the other, until one is a batch session's last."""
        while True:
            run = self._book.current = await self._book.next()
            if run.is_batch and self._batch is not None:
                await self._batch.execute(run)
            else:
                await kernel.execute(run)
            self._book.current = None
            if run.run_id == STARTUP_RUN and self._kernel_spec.startup_command:
                ending.decide(RunnerExit(reason=TASK_FINISHED, exit_code=run.exit_code))

    async def _watch_process(self, sandbox: Sandbox, ending: _Ending) -> None:
        exited = await sandbox.wait()
        # What it printed last may still be on its way.
        await trio.sleep(_DRAIN)
        ending.decide(self._exit_of(exited))

    def _exit_of(self, exited: SandboxExit) -> RunnerExit:
        if exited.out_of_memory:
            limit = self._kernel_spec.limits.memory
            return RunnerExit(
                reason="out-of-memory", exit_code=exited.code, detail=f"memory limit: {limit} bytes"
            )
        if self._phase is not KernelPhase.RUNNING:
            return RunnerExit(reason="start-failed", exit_code=exited.code, detail=self._tail())
        if exited.code > 128:
            return RunnerExit(reason="killed", exit_code=exited.code, detail=signal_name(exited.code - 128))
        return RunnerExit(reason="self-terminated", exit_code=exited.code)

    async def _log_output(self, sandbox: Sandbox) -> None:
        """What goes past Jupyter: messages of crashes, of the sandbox, of the kernel's own start."""
        async for data in sandbox.output:
            self._log.write(data)
        await trio.sleep_forever()

    async def _watch_disk(self, sandbox: Sandbox, ending: _Ending) -> None:
        while True:
            # Without control groups, what ended processes have used is only known from looking before.
            sandbox.measure()
            began = time.monotonic()
            found = await scratch.measure(HOME)
            self._scratch = found.size
            limit = self._kernel_spec.limits.disk
            if found.size > limit or found.over:
                why = found.over or f"{found.size} bytes in use"
                ending.decide(RunnerExit(reason="disk-limit", detail=f"disk limit: {limit} bytes; {why}"))
            await trio.sleep(max(_DISK_INTERVAL, (time.monotonic() - began) / _DISK_SHARE))

    def _tail(self) -> str:
        return self._log.tail(_TAIL)[0].strip()

    # -- what can be asked -----------------------------------------------------------------------------------

    def submit(self, request: RunRequest) -> Run:
        """The run a request is about, put into the queue when it is new. Does not wait. Raises
        ``RunRefused``.
        """
        if request.mode is RunMode.COMPLETE:
            raise RunRefused("unsupported", f"runs of mode {request.mode.value} are not served here")
        if self._phase is KernelPhase.EXITED and self._book.find(request.run_id) is None:
            raise RunRefused("kernel-exited", self._exit.reason if self._exit else "")
        return self._book.submit(request)

    async def answer(self, run: Run, request: RunRequest) -> RunReply:
        """Feed input if the request brings some, then read."""
        if request.mode is RunMode.INPUT and self._kernel is not None:
            if run.is_batch and self._batch is not None:
                await self._batch.give_input(run, request.code)
            else:
                await self._kernel.give_input(run, request.code)
        return await run.read(request)

    async def interrupt(self) -> None:
        if self._book.current is not None and self._book.current.is_batch and self._batch is not None:
            self._batch.interrupt()
        elif self._kernel is not None and self._book.current is not None:
            await self._kernel.interrupt()

    async def complete(self, request: CompletionRequest) -> tuple[str, ...]:
        if self._kernel is None or self._phase is not KernelPhase.RUNNING or self._book.current is not None:
            return ()
        return await self._kernel.complete(request)

    def logs(self, limit: int) -> tuple[str, bool]:
        return self._log.tail(limit)

    def measure(self) -> KernelStat:
        return self._last_stat if self._sandbox is None else self._measure(self._sandbox)

    def _measure(self, sandbox: Sandbox) -> KernelStat:
        busy = self._book.current is not None
        return msgspec.structs.replace(sandbox.measure(), scratch=self._scratch, busy=busy)

    async def assign(self, spec: KernelSpec) -> None:
        """Give the warm kernel to a session. Raises :class:`KernelRefused`; the kernel is then of no use any
        more.
        """
        if (
            not self._warm
            or self._phase is not KernelPhase.RUNNING
            or self._kernel is None
            or self._sandbox is None
        ):
            raise KernelRefused("this kernel is not a warm one")
        snippet = self._spec.image.env_snippet
        fixed = (
            spec.network != self._kernel_spec.network
            or spec.bootstrap_script
            or spec.dotfiles
            or spec.cluster
        )
        if snippet is None or fixed:
            raise KernelRefused("a warm kernel cannot become this one")
        self._warm = False
        self._kernel_spec = spec
        self._book.set_limit(spec.limits.output)
        try:
            self._sandbox.set_limits(spec.limits)
        except OSError as error:
            raise KernelRefused(f"cannot set the limits: {error}") from error
        if spec.environ:
            # JSON text is a literal of most languages; not escaped to ASCII, so that it is the same text in
            # all.
            text = json.dumps(spec.environ, ensure_ascii=False)
            await self._kernel.execute_silently(snippet.replace("{json}", text))
        self._write_state()
        if spec.startup_command:
            self._submit_startup(spec.startup_command)

    async def restart(self) -> None:
        """End the process and start another; returns when that is ready or has failed."""
        if self._phase is not KernelPhase.EXITED:
            self._set_phase(KernelPhase.RESTARTING)
            self._ending.decide(None)
        await self.ready()

    def dispose(
        self, reason: str, *, grace: float = 0.0, keep_state: bool = False, keep_output: bool = False
    ) -> None:
        """Have the kernel ended and its directory removed, all but the state file with ``keep_state`` and
        what it printed with ``keep_output``.
        """
        self._ending.decide(RunnerExit(reason=reason), grace)
        kept = ((wire.STATE_FILE, keep_state), (wire.OUTPUT_FILE, keep_output))
        self._kept_files = tuple(name for name, wanted in kept if wanted)
        self._disposal.set()

    async def gone(self) -> RunnerExit:
        """Return once :meth:`dispose` has done its work."""
        exit = await self.ended()
        await self._gone.wait()
        return exit

    async def ready(self) -> None:
        """Return when the kernel is RUNNING or EXITED."""
        while self._phase not in (KernelPhase.RUNNING, KernelPhase.EXITED):
            await self._changed.wait()

    async def ended(self) -> RunnerExit:
        while self._exit is None:
            await self._changed.wait()
        return self._exit

    async def _remove_files(self) -> None:
        await scratch.remove(*(name for name in _FILES if name not in self._kept_files))
        if wire.STATE_FILE not in self._kept_files:
            await scratch.remove(wire.STATE_FILE)
        with suppress(OSError):  # there is something left in it, or somebody else's file
            Path.cwd().rmdir()

    def state(self) -> RunnerState:
        return RunnerState(
            kernel_id=self._kernel_spec.kernel_id,
            session_id=self._kernel_spec.session_id,
            image=self._spec.image.canonical,
            phase=self._phase,
            runner_pid=os.getpid(),
            runner_identity=_identity_of_this_process(),
            warm=self._warm,
            busy=self._book.current is not None,
            isolation=self._isolation,
            timings=self._timings,
            exit=self._exit,
            kernel=self._kernel_spec,
            services=service_ports(self._spec.image, self._kernel_spec),
            network=self._network.paths if self._network else None,
        )

    def _set_phase(self, phase: KernelPhase) -> None:
        self._phase = phase
        self._write_state()
        self._changed.set()
        self._changed = trio.Event()

    def _write_state(self) -> None:
        """Whole or not at all, so that whoever finds the directory can rely on it."""
        fresh = Path(wire.STATE_FILE + ".new")
        fresh.write_bytes(msgspec.msgpack.encode(self.state()))
        fresh.replace(wire.STATE_FILE)


def _milliseconds_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)


def _identity_of_this_process() -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot_id}/{started}"
