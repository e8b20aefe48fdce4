"""Runners without processes, to put the agent into situations real ones rarely get into."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from backendai.core.execution import CompletionRequest, RunReply, RunRequest, RunStatus
from backendai.core.kernel import KernelPhase, KernelSpec, KernelStat
from backendai.runner.client import KernelNotReady, RunnerGone, RunnerRefused
from backendai.runner.zygote import ZygoteFailed
from backendai.wire.runner import RunnerExit, RunnerSpec, RunnerState


class StandInRunner:
    """Ready when ``ready`` is set; does what it is told at once."""

    def __init__(self, directory: Path, spec: RunnerSpec) -> None:
        self.directory = directory
        self.spec = spec
        self.kernel = spec.kernel
        self.warm = spec.warm
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.gone = False
        self.exit: RunnerExit | None = None
        self.refuse_assign = False
        self.begun: list[str] = []
        self.detached = False
        self._order = trio.StrictFIFOLock()

    def _state(self) -> RunnerState:
        phase = KernelPhase.RUNNING if self.ready.is_set() else KernelPhase.CREATING
        return RunnerState(
            kernel_id=self.kernel.kernel_id,
            session_id=self.kernel.session_id,
            image=self.spec.image.canonical,
            phase=KernelPhase.EXITED if self.exit else phase,
            runner_pid=1,
            runner_identity="",
            warm=self.warm,
            timings={"ready": 1.0},
            exit=self.exit,
            kernel=self.kernel,
        )

    def end(self, exit: RunnerExit | None) -> None:
        """The kernel ends; with ``None`` the runner was killed."""
        self.exit = exit
        self.gone = exit is None
        self.ended.set()
        self.ready.set()

    def _check(self) -> None:
        if self.gone:
            raise RunnerGone(self.directory, None)

    async def describe(self) -> RunnerState:
        self._check()
        return self._state()

    async def wait_ready(self) -> RunnerState:
        await self.ready.wait()
        self._check()
        if self.exit is not None:
            raise KernelNotReady(self.exit)
        return self._state()

    async def wait_exit(self) -> RunnerExit:
        await self.ended.wait()
        self._check()
        assert self.exit is not None
        return self.exit

    async def run(self, request: RunRequest) -> RunReply:
        async with self._order:
            self._check()
            self.begun.append(request.run_id)
        with trio.move_on_after(request.wait):
            await trio.sleep_forever()
        return RunReply(run_id=request.run_id, status=RunStatus.CONTINUED)

    async def interrupt(self) -> None:
        async with self._order:
            self._check()
            self.begun.append("interrupt")

    async def complete(self, request: CompletionRequest) -> tuple[str, ...]:
        raise RunnerRefused("not-ready", "")

    async def logs(self, limit: int) -> tuple[str, bool]:
        return "log", False

    async def stat(self) -> KernelStat:
        self._check()
        return KernelStat(mem=7)

    async def assign(self, kernel: KernelSpec) -> RunnerState:
        self._check()
        if self.refuse_assign:
            raise RunnerRefused("assign-failed", "")
        self.kernel = kernel
        self.warm = False
        return self._state()

    async def restart(self) -> RunnerState:
        return await self.wait_ready()

    async def shutdown(self, reason: str, grace: float = 0.0, *, keep_output: bool = False) -> RunnerExit:
        self._check()
        exit = self.exit or RunnerExit(reason=reason)
        self.end(exit)
        self.gone = True
        return exit

    async def aclose(self) -> None:
        self.detached = True


class StandInHost:
    def __init__(self, *, ready: bool = True) -> None:
        self.runners: list[StandInRunner] = []
        self.ready = ready
        self.fail = False

    async def spawn(self, directory: Path, spec: RunnerSpec) -> StandInRunner:
        await trio.lowlevel.checkpoint()
        if self.fail:
            raise ZygoteFailed("no")
        directory.mkdir(parents=True)
        (directory / "spec").write_bytes(msgspec.msgpack.encode(spec))
        runner = StandInRunner(directory, spec)
        if self.ready:
            runner.ready.set()
        self.runners.append(runner)
        return runner

    async def attach(self, directory: Path) -> StandInRunner:
        await trio.lowlevel.checkpoint()
        for runner in self.runners:
            if runner.directory == directory and not runner.gone:
                runner.detached = False
                return runner
        raise RunnerGone(directory, None)
