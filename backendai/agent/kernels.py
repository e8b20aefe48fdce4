"""All kernels of the agent, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.agent.directory import AgentDirectory, remove_directory
from backendai.agent.facts import FactOutbox
from backendai.agent.host import Runner, RunnerHost, kill_runner
from backendai.agent.kernel import Kernel
from backendai.agent.networks import SessionNetworks
from backendai.agent.pool import WarmPool, end_warm
from backendai.agent.resources import lack
from backendai.core.execution import CompletionRequest, RunRequest
from backendai.core.kernel import ImageSpec, KernelFacts, KernelPhase, KernelSpec, KernelStat
from backendai.runner.client import RunnerGone, RunnerRefused, read_last_state
from backendai.wire.link import (
    AgentAnswer,
    Completions,
    Destroyed,
    Done,
    Files,
    KernelTerminated,
    Logs,
    Output,
    Refused,
    RunAnswered,
    Services,
    ServiceStarted,
    StartService,
)
from backendai.wire.runner import RunnerExit, RunnerSpec, RunnerState

log = structlog.get_logger(__name__)

#: Ended kernels that are remembered, so that a late or doubled create does not raise them from the dead.
_REMEMBERED = 4096
#: Seconds a kernel has to end by itself when it is not forced.
_GRACE = 1.0
#: Seconds a runner has to answer what should take milliseconds.
_QUICKLY = 2.0
#: Seconds a runner found at the start of the agent has to answer before it counts as lost.
_ADOPTION_TIMEOUT = 10.0
_BUSY = frozenset({"not-ready", "too-many-runs"})


class Kernels:
    """Calls are answered with a link message, refusals too; only a fault of ours raises."""

    def __init__(
        self,
        host: RunnerHost,
        directory: AgentDirectory,
        images: Mapping[str, ImageSpec],
        offered: Mapping[str, Decimal],
        outbox: FactOutbox,
        pool: WarmPool,
        runner_spec: Callable[[KernelSpec, ImageSpec], RunnerSpec],
        networks: SessionNetworks,
    ) -> None:
        self._host = host
        self._directory = directory
        self._images = images
        self._offered = offered
        self._outbox = outbox
        self._pool = pool
        self._runner_spec = runner_spec
        self._networks = networks
        self._kernels: dict[UUID, Kernel] = {}
        self._ended: dict[UUID, None] = {}
        self._nursery: trio.Nursery | None = None
        self._fewer = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take up the kernels an earlier agent left, then own the lives of all. Cancellation detaches."""
        try:
            async with trio.open_nursery() as self._nursery:
                for path, kernel_id in self._directory.found():
                    await self._take_up(path, kernel_id)
                task_status.started()
                await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for kernel in self._kernels.values():
                    if kernel.runner is not None:
                        await kernel.runner.aclose()

    async def end_all(self, reason: str) -> None:
        """End every kernel and wait until nothing of them is left."""
        for kernel in self._kernels.values():
            kernel.end(reason, 0.0)
        while self._kernels:
            await self._fewer.wait()

    # -- what the manager asks

    def create(self, spec: KernelSpec) -> AgentAnswer:
        if spec.kernel_id in self._kernels:
            return Done()
        if spec.kernel_id in self._ended:
            return Refused(code="kernel-exited", msg="the kernel of this id has ended")
        image = self._images.get(spec.image)
        if image is None:
            return Refused(code="no-such-image", msg=spec.image)
        occupied = [k.spec.slots for k in self._kernels.values() if k.phase is not KernelPhase.EXITED]
        if (missing := lack(self._offered, occupied, spec.slots)) is not None:
            return Refused(code="no-capacity", msg=missing)
        directory = self._directory.of_kernel(spec.kernel_id)
        kernel = Kernel(spec, directory, self._outbox, self._directory.outputs)
        self._begin(kernel, lambda: kernel.live(lambda kernel: self._obtain(kernel, image)))
        return Done()

    async def destroy(self, kernel_id: UUID, reason: str, *, forced: bool) -> AgentAnswer:
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            self._remember(kernel_id)
            return Destroyed()
        if kernel.runner is not None and kernel.phase is KernelPhase.RUNNING:
            await _measure(kernel)
        kernel.end(reason, 0.0 if forced else _GRACE)
        return Destroyed(last_stat=kernel.stat)

    def restart(self, kernel_id: UUID) -> AgentAnswer:
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return _no_such(kernel_id)
        if kernel.phase is KernelPhase.CREATING:
            return Refused(code="busy", msg="the kernel is being created")
        if kernel.phase is KernelPhase.EXITED:
            return Refused(code="kernel-exited")
        self._spawn(kernel.restart)
        return Done()

    async def execute(self, kernel_id: UUID, request: RunRequest) -> AgentAnswer:
        return await self._ask(kernel_id, lambda runner: _run(runner, request))

    async def interrupt(self, kernel_id: UUID) -> AgentAnswer:
        return await self._ask(kernel_id, _interrupt)

    async def complete(self, kernel_id: UUID, request: CompletionRequest) -> AgentAnswer:
        return await self._ask(kernel_id, lambda runner: _complete(runner, request))

    async def logs(self, kernel_id: UUID, limit: int) -> AgentAnswer:
        return await self._ask(kernel_id, lambda runner: _logs(runner, limit))

    async def output(self, kernel_id: UUID) -> AgentAnswer:
        found = await self._directory.outputs.read(kernel_id)
        return _no_such(kernel_id) if found is None else Output(output=found)

    def forget_output(self, kernel_id: UUID) -> None:
        self._directory.outputs.forget(kernel_id)

    async def list_files(self, kernel_id: UUID, path: str) -> AgentAnswer:
        return await self._ask(kernel_id, lambda runner: _list_files(runner, path))

    async def start_service(self, call: StartService) -> AgentAnswer:
        return await self._ask(call.kernel_id, lambda runner: _start_service(runner, call))

    async def stop_service(self, kernel_id: UUID, name: str) -> AgentAnswer:
        return await self._ask(kernel_id, lambda runner: _stop_service(runner, name))

    async def services(self, kernel_id: UUID) -> AgentAnswer:
        return await self._ask(kernel_id, _services)

    def directory_of(self, kernel_id: UUID) -> Path | Refused:
        """Where the runner of a kernel that can be used is to be found."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return _no_such(kernel_id)
        if kernel.runner is None or kernel.phase is KernelPhase.CREATING:
            return Refused(code="busy", msg="the kernel is being created")
        if kernel.phase is KernelPhase.EXITED:
            return Refused(code="kernel-exited", msg="the kernel has ended")
        return kernel.directory

    # -- what the manager is told

    def facts(self) -> tuple[KernelFacts, ...]:
        return tuple(kernel.facts for kernel in self._kernels.values())

    async def measure(self) -> dict[UUID, KernelStat]:
        """The live kernels, measured now; one that does not answer at once keeps its last figures."""
        live = [kernel for kernel in self._kernels.values() if kernel.phase is not KernelPhase.EXITED]
        async with trio.open_nursery() as nursery:
            for kernel in live:
                if kernel.phase is KernelPhase.RUNNING:
                    nursery.start_soon(_measure, kernel)
        return {kernel.spec.kernel_id: kernel.stat or KernelStat() for kernel in live}

    def starting(self) -> tuple[UUID, ...]:
        """Live kernels that do not run yet."""
        return tuple(id_ for id_, kernel in self._kernels.items() if kernel.phase is KernelPhase.CREATING)

    # -- inside

    async def _ask(
        self, kernel_id: UUID, question: Callable[[Runner], Awaitable[AgentAnswer]]
    ) -> AgentAnswer:
        """Pass a question on. No other task runs before it is on its way, so questions keep their order."""
        kernel = self._kernels.get(kernel_id)
        if kernel is None:
            return _no_such(kernel_id)
        if kernel.runner is None or kernel.phase is KernelPhase.CREATING:
            return Refused(code="busy", msg="the kernel is being created")
        try:
            return await question(kernel.runner)
        except RunnerGone:
            return Refused(code="kernel-exited", msg="the kernel has ended")
        except RunnerRefused as refusal:
            return Refused(code="busy" if refusal.code in _BUSY else refusal.code, msg=refusal.msg)

    async def _obtain(self, kernel: Kernel, image: ImageSpec) -> RunnerState:
        """A runner for the kernel: a warm one if there is one that fits."""
        warm = self._pool.claim(kernel.spec)
        if warm is not None:
            own_directory = kernel.directory
            kernel.directory, kernel.runner, kernel.warm = warm.directory, warm.runner, True
            try:
                return await warm.runner.assign(kernel.spec)
            except (RunnerGone, RunnerRefused) as error:
                log.warning("agent.warm-kernel-unusable", kernel=str(kernel.spec.kernel_id), error=str(error))
                kernel.directory, kernel.runner, kernel.warm = own_directory, None, False
                self._spawn(lambda: end_warm(warm))
        kernel.report_creating()
        with self._pool.cold_start():
            spec = self._runner_spec(kernel.spec, image)
            spec = msgspec.structs.replace(spec, network=await self._networks.join(kernel.spec))
            with trio.CancelScope(shield=True):  # a runner that starts must not be lost sight of
                runner = await self._host.spawn(kernel.directory, spec)
            kernel.runner = runner
            return await runner.wait_ready()

    async def _take_up(self, path: Path, kernel_id: UUID | None) -> None:
        """A directory that an earlier agent left: go on with its runner, or report its end."""
        try:
            with trio.fail_after(_ADOPTION_TIMEOUT):
                runner = await self._host.attach(path)
                state = await runner.describe()
        except (RunnerGone, trio.TooSlowError) as error:
            kill_runner(path)
            last = error.last if isinstance(error, RunnerGone) else read_last_state(path)
            if last is not None:
                kernel_id = None if last.warm else last.kernel_id
            if kernel_id is not None:
                await self._directory.outputs.take(kernel_id, path)
                self._report_gone(kernel_id, last.exit if last else None)
            await remove_directory(path)
            return
        if state.warm:
            await self._pool.adopt(path, runner, state)
            return
        log.info("agent.kernel-taken-up", kernel=str(state.kernel_id), phase=state.phase.value)
        kernel = Kernel(state.kernel or _bare(state), path, self._outbox, self._directory.outputs)
        kernel.adopt(runner, state)
        if state.network is not None:
            await self._networks.adopt(kernel.spec, state.network)
        if state.phase in (KernelPhase.CREATING, KernelPhase.RESTARTING):
            self._begin(kernel, lambda: kernel.live(lambda _: runner.wait_ready()))
        else:
            self._begin(kernel, kernel.watch)

    def _report_gone(self, kernel_id: UUID, exit: RunnerExit | None) -> None:
        reason = exit.reason if exit else "runner-lost"
        log.warning("agent.kernel-gone", kernel=str(kernel_id), reason=reason)
        self._remember(kernel_id)
        self._outbox.report(
            KernelTerminated(
                kernel_id=kernel_id,
                reason=reason,
                exit_code=exit.exit_code if exit else None,
                last_stat=exit.stat if exit else None,
            )
        )

    def _begin(self, kernel: Kernel, life: Callable[[], Awaitable[None]]) -> None:
        kernel_id = kernel.spec.kernel_id
        self._kernels[kernel_id] = kernel

        async def live() -> None:
            await life()
            self._networks.leave(kernel.spec)
            del self._kernels[kernel_id]
            self._remember(kernel_id)
            self._fewer.set()
            self._fewer = trio.Event()

        self._spawn(live)

    def _spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            raise RuntimeError("kernels live only while run() does")
        self._nursery.start_soon(task)

    def _remember(self, kernel_id: UUID) -> None:
        self._ended[kernel_id] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]


async def _run(runner: Runner, request: RunRequest) -> AgentAnswer:
    return RunAnswered(reply=await runner.run(request))


async def _interrupt(runner: Runner) -> AgentAnswer:
    await runner.interrupt()
    return Done()


async def _complete(runner: Runner, request: CompletionRequest) -> AgentAnswer:
    return Completions(matches=await runner.complete(request))


async def _logs(runner: Runner, limit: int) -> AgentAnswer:
    text, truncated = await runner.logs(limit)
    return Logs(text=text, truncated=truncated)


async def _list_files(runner: Runner, path: str) -> AgentAnswer:
    return Files(listing=await runner.list_files(path))


async def _start_service(runner: Runner, call: StartService) -> AgentAnswer:
    return ServiceStarted(port=await runner.start_service(call.name, call.port, call.environ, call.arguments))


async def _stop_service(runner: Runner, name: str) -> AgentAnswer:
    await runner.stop_service(name)
    return Done()


async def _services(runner: Runner) -> AgentAnswer:
    return Services(ports=await runner.services())


async def _measure(kernel: Kernel) -> None:
    if kernel.runner is not None:
        with trio.move_on_after(_QUICKLY), suppress(RunnerGone, RunnerRefused):
            kernel.stat = await kernel.runner.stat()


def _no_such(kernel_id: UUID) -> Refused:
    return Refused(code="no-such-kernel", msg=str(kernel_id))


def _bare(state: RunnerState) -> KernelSpec:
    """The spec of a kernel whose runner has forgotten it: enough to keep and to end it."""
    return KernelSpec(
        kernel_id=state.kernel_id, session_id=state.session_id, session_name="", image=state.image
    )
