"""The life of one kernel on its agent, from the wish until nothing of it is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from backendai.agent.directory import remove_directory, runner_log_tail
from backendai.agent.facts import FactOutbox
from backendai.agent.host import Runner, kill_runner, shut_down
from backendai.agent.outputs import EndedOutputs
from backendai.core.kernel import KernelFacts, KernelPhase, KernelSpec, KernelStat, ServicePort
from backendai.engines.contract import SandboxFailed
from backendai.runner.client import KernelNotReady, RunnerGone, RunnerRefused
from backendai.runner.zygote import ZygoteFailed
from backendai.wire.link import KernelCreating, KernelFailed, KernelStarted, KernelTerminated
from backendai.wire.runner import RunnerExit, RunnerState

log = structlog.get_logger(__name__)

#: Seconds a kernel that ended by itself can still be asked for the output of its runs.
LINGER = 15.0
_LOST = "runner-lost"


class Kernel:
    """A kernel that belongs to a session.

    One task, :meth:`live`, leads it from start to end and reports what happens; calls come in beside it.
    """

    def __init__(self, spec: KernelSpec, directory: Path, outbox: FactOutbox, outputs: EndedOutputs) -> None:
        self.spec = spec
        self.directory = directory
        self.phase = KernelPhase.CREATING
        self.runner: Runner | None = None
        self.warm = False
        #: The last measurement.
        self.stat: KernelStat | None = None
        self._outbox = outbox
        self._outputs = outputs
        self._isolation: dict[str, str] = {}
        self._timings: dict[str, float] = {}
        self._services: tuple[ServicePort, ...] = ()
        self._exit: RunnerExit | None = None
        self._starting = trio.CancelScope()
        self._end_reason: str | None = None
        self._end_grace = 0.0
        self._end_wanted = trio.Event()

    @property
    def facts(self) -> KernelFacts:
        return KernelFacts(
            kernel_id=self.spec.kernel_id,
            session_id=self.spec.session_id,
            phase=self.phase,
            image=self.spec.image,
            slots=self.spec.slots,
            isolation=self._isolation,
            warm=self.warm,
            timings=self._timings,
            exit_code=self._exit.exit_code if self._exit else None,
            exit_reason=self._exit.reason if self._exit else None,
            service_ports=self._services,
        )

    # -- the wishes of the manager

    def end(self, reason: str, grace: float) -> None:
        """Have the kernel ended; :meth:`live` does it. The first reason stays."""
        if self._end_reason is None:
            self._end_reason = reason
            self._end_grace = grace
        if self.phase is KernelPhase.CREATING:
            self._starting.cancel()
        self._end_wanted.set()

    async def restart(self) -> None:
        """New processes on the same files; reports ``KernelStarted``, or :meth:`live` reports the end."""
        if self.runner is None or self.phase is not KernelPhase.RUNNING:
            return
        self.phase = KernelPhase.RESTARTING
        begun = trio.current_time()
        try:
            state = await self.runner.restart()
        except (KernelNotReady, RunnerGone):
            return
        except RunnerRefused as refusal:
            log.warning("agent.restart-refused", kernel=str(self.spec.kernel_id), why=str(refusal))
            self.phase = KernelPhase.RUNNING
            return
        if self.phase is KernelPhase.RESTARTING:
            self._take_running(state, begun)

    # -- the life

    def report_creating(self) -> None:
        """The start will take its time; one from the warm pool is over before anybody has read of it."""
        self._outbox.report(KernelCreating(kernel_id=self.spec.kernel_id))

    async def live(self, obtain: Callable[[Kernel], Awaitable[RunnerState]]) -> None:
        """Start with ``obtain``, which gives the kernel its runner, watch to the end, remove what is left.

        Cancellation detaches: kernel and runner live on.
        """
        begun = trio.current_time()
        failure: RunnerExit | None = None
        with self._starting:
            try:
                self._take_running(await obtain(self), begun)
            except KernelNotReady as error:
                failure = error.exit
            except RunnerGone as gone:
                failure = (gone.last and gone.last.exit) or RunnerExit(
                    reason=_LOST, detail=runner_log_tail(self.directory)
                )
            except SandboxFailed as error:
                failure = RunnerExit(reason=error.code, detail=error.detail)
            except (ZygoteFailed, OSError) as error:
                failure = RunnerExit(reason="start-failed", detail=str(error))
        if self.phase is KernelPhase.RUNNING:
            await self.watch()
            return
        self.phase = KernelPhase.EXITED
        await self._clean_up()
        kernel_id = self.spec.kernel_id
        if failure is None:  # ended on request before it started
            self._outbox.report(KernelTerminated(kernel_id=kernel_id, reason=self._end_reason or "cancelled"))
        else:
            log.warning(
                "agent.kernel-failed", kernel=str(kernel_id), code=failure.reason, detail=failure.detail
            )
            self._outbox.report(KernelFailed(kernel_id=kernel_id, code=failure.reason, detail=failure.detail))

    async def watch(self) -> None:
        """The part of :meth:`live` after the start, where a kernel found running by a new agent begins."""
        exit = await self._wait_exit()
        # Before anybody hears of the end, so that whoever does can have it.
        await self._outputs.take(self.spec.kernel_id, self.directory)
        self._exit = exit
        self.phase = KernelPhase.EXITED
        self._outbox.report(
            KernelTerminated(
                kernel_id=self.spec.kernel_id,
                reason=exit.reason,
                exit_code=exit.exit_code,
                last_stat=exit.stat or self.stat,
            )
        )
        log.info("agent.kernel-ended", kernel=str(self.spec.kernel_id), reason=exit.reason)
        with trio.move_on_after(LINGER):
            await self._end_wanted.wait()
        await self._clean_up()

    def adopt(self, runner: Runner, state: RunnerState) -> None:
        """Be the kernel of a runner that an earlier agent started."""
        self.runner = runner
        self.phase = state.phase
        self._isolation = state.isolation
        self._timings = state.timings
        self._services = state.services

    def _take_running(self, state: RunnerState, begun: float) -> None:
        self.phase = KernelPhase.RUNNING
        self._isolation = state.isolation
        self._services = state.services
        self._timings = {**state.timings, "total": round((trio.current_time() - begun) * 1000, 1)}
        self._outbox.report(KernelStarted(kernel_id=self.spec.kernel_id, facts=self.facts))
        log.info("agent.kernel-started", kernel=str(self.spec.kernel_id), warm=self.warm, **self._timings)

    async def _wait_exit(self) -> RunnerExit:
        """Until the kernel has ended, by itself or because :meth:`end` was called."""
        exits: list[RunnerExit] = []
        async with trio.open_nursery() as nursery:

            async def ask(question: Callable[[Runner], Awaitable[RunnerExit]]) -> None:
                exits.append(await self._ask_exit(question))
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask, lambda runner: runner.wait_exit())
            await self._end_wanted.wait()
            with trio.CancelScope(
                shield=True
            ):  # once begun, the end is seen through, whoever notices it first
                exits.insert(0, await self._ask_exit(self._shut_down))
            nursery.cancel_scope.cancel()
        return exits[0]

    async def _ask_exit(self, question: Callable[[Runner], Awaitable[RunnerExit]]) -> RunnerExit:
        if self.runner is None:
            return RunnerExit(reason=_LOST)
        try:
            return await question(self.runner)
        except RunnerGone as gone:
            return (gone.last and gone.last.exit) or RunnerExit(reason=self._end_reason or _LOST)

    async def _shut_down(self, runner: Runner) -> RunnerExit:
        reason = self._end_reason or "ended"
        kept = self._exit is None  # afterwards it was taken already
        return await shut_down(runner, self.directory, reason, self._end_grace, keep_output=kept)

    async def _clean_up(self) -> None:
        if self.runner is not None:
            try:
                await self._shut_down(self.runner)
            except RunnerGone:
                kill_runner(self.directory)  # it may merely have stopped to talk with us
            await self.runner.aclose()
        await remove_directory(self.directory)
