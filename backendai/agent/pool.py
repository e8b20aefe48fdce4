"""Kernels started ahead of time, so that a session need not wait for one.

A kernel leaves the pool once and never comes back: nothing of one session can reach another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import structlog
import trio

from backendai.agent.directory import AgentDirectory, remove_directory, runner_log_tail
from backendai.agent.host import Runner, RunnerHost, kernel_named_warm, kill_runner, shut_down
from backendai.core.kernel import ImageSpec, KernelPhase, KernelSpec
from backendai.runner.client import KernelNotReady, RunnerGone
from backendai.runner.zygote import ZygoteFailed
from backendai.supervision.periodic import Alarm
from backendai.wire.runner import RunnerSpec, RunnerState

log = structlog.get_logger(__name__)

#: Seconds after a claim in which the claimed kernel has the processor for its first result.
_HEAD_START = 0.25
#: Seconds before the next attempt after a kernel failed to start; doubles with each.
_RETRY = (1.0, 60.0)
_STOP_REASON = "pool-closed"


@dataclass(slots=True, eq=False)
class WarmKernel:
    image: str
    directory: Path
    runner: Runner
    #: Around the wait for its end, which the pool gives up when the kernel is claimed.
    minded: trio.CancelScope = field(default_factory=trio.CancelScope)


class WarmPool:
    """Keeps ``size`` kernels ready for each of ``images``; starts one at a time, when nobody else waits."""

    def __init__(
        self,
        host: RunnerHost,
        directory: AgentDirectory,
        images: Sequence[ImageSpec],
        size: int,
        runner_spec: Callable[[KernelSpec, ImageSpec], RunnerSpec],
    ) -> None:
        self._host = host
        self._directory = directory
        self._images = {image.canonical: image for image in images} if size else {}
        self._size = size
        self._runner_spec = runner_spec
        self._ready: dict[str, list[WarmKernel]] = {name: [] for name in self._images}
        self._changed = Alarm()
        self._starting: WarmKernel | None = None
        self._closed = False
        self._cold_starts = 0
        self._calm_at = 0.0

    def claim(self, spec: KernelSpec) -> WarmKernel | None:
        """A ready kernel that can become what ``spec`` asks for; it is the caller's from now on."""
        ready = self._ready.get(spec.image)
        if not ready or not _assignable(spec):
            return None
        warm = ready.pop(0)
        warm.minded.cancel()
        self._calm_at = trio.current_time() + _HEAD_START
        self._changed.ring()
        return warm

    @contextmanager
    def cold_start(self) -> Iterator[None]:
        """While a session waits for the start of its kernel, the pool starts none."""
        self._cold_starts += 1
        try:
            yield
        finally:
            self._cold_starts -= 1
            self._changed.ring()

    async def adopt(self, directory: Path, runner: Runner, state: RunnerState) -> None:
        """Take over a warm kernel that an earlier agent left, or end it when it is of no use any more."""
        wanted = self._ready.get(state.image)
        warm = WarmKernel(state.image, directory, runner)
        if wanted is not None and len(wanted) < self._size and state.phase is KernelPhase.RUNNING:
            wanted.append(warm)
        else:
            await end_warm(warm)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fill the pool and keep it filled. Cancellation detaches from the kernels; see :meth:`close`."""
        failures = 0
        try:
            async with trio.open_nursery() as nursery:
                for warm in [warm for ready in self._ready.values() for warm in ready]:
                    nursery.start_soon(self._mind, warm)
                task_status.started()
                while True:
                    image = await self._next_lacking()
                    try:
                        warm = await self._start(image)
                    except (KernelNotReady, RunnerGone, ZygoteFailed, OSError) as error:
                        shortest, longest = _RETRY
                        pause = min(shortest * 2**failures, longest)
                        failures += 1
                        log.warning("agent.warm-start-failed", image=image.canonical, error=_why(error))
                        await trio.sleep(pause)
                    else:
                        failures = 0
                        self._ready[image.canonical].append(warm)
                        nursery.start_soon(self._mind, warm)
        finally:
            with trio.CancelScope(shield=True):
                for ready in self._ready.values():
                    for warm in ready:
                        await warm.runner.aclose()

    async def close(self) -> None:
        """End every kernel of the pool and start no more."""
        self._images = {}
        self._closed = True
        leaving = [warm for ready in self._ready.values() for warm in ready]
        for ready in self._ready.values():
            ready.clear()
        if self._starting is not None:
            leaving.append(self._starting)
        async with trio.open_nursery() as nursery:
            for warm in leaving:
                warm.minded.cancel()
                nursery.start_soon(end_warm, warm)

    async def _next_lacking(self) -> ImageSpec:
        while True:
            image = next(
                (image for name, image in self._images.items() if len(self._ready[name]) < self._size), None
            )
            if image is None or self._cold_starts:
                await self._changed.wait()
            elif trio.current_time() < self._calm_at:
                await trio.sleep_until(self._calm_at)
            else:
                return image

    async def _start(self, image: ImageSpec) -> WarmKernel:
        kernel = kernel_named_warm(uuid4(), image.canonical)
        directory = self._directory.of_warm_kernel(kernel.kernel_id)
        try:
            with trio.CancelScope(shield=True):  # a runner that starts must not be lost sight of
                runner = await self._host.spawn(directory, self._runner_spec(kernel, image))
        except (RunnerGone, ZygoteFailed, OSError) as error:
            error.add_note(runner_log_tail(directory))
            await remove_directory(directory)
            raise
        warm = self._starting = WarmKernel(image.canonical, directory, runner)
        try:
            if self._closed:
                await end_warm(warm)
            await runner.wait_ready()
        except (KernelNotReady, RunnerGone):
            await end_warm(warm)
            raise
        finally:
            self._starting = None
        return warm

    async def _mind(self, warm: WarmKernel) -> None:
        """Notice when a waiting kernel dies."""
        with warm.minded:
            reason = "runner-lost"
            with suppress(RunnerGone):
                reason = (await warm.runner.wait_exit()).reason
            log.warning("agent.warm-kernel-died", image=warm.image, reason=reason)
            self._ready[warm.image].remove(warm)
            self._changed.ring()
            await end_warm(warm)


async def end_warm(warm: WarmKernel) -> None:
    """End a kernel that no session has used, and remove what is left of it."""
    try:
        await shut_down(warm.runner, warm.directory, _STOP_REASON)
    except RunnerGone:
        kill_runner(warm.directory)
    await warm.runner.aclose()
    await remove_directory(warm.directory)


def _assignable(spec: KernelSpec) -> bool:
    """Whether a kernel that already runs can become this: what is fixed at the start must agree."""
    plain = kernel_named_warm(spec.kernel_id, spec.image)
    return (
        spec.network == plain.network
        and spec.bootstrap_script is None
        and not spec.dotfiles
        and not spec.cluster
        and spec.cluster_hostname == plain.cluster_hostname
        and spec.limits.open_files == plain.limits.open_files
    )


def _why(error: Exception) -> str:
    if isinstance(error, KernelNotReady):
        return error.exit.detail or error.exit.reason
    return "\n".join([str(error), *getattr(error, "__notes__", ())]).strip()
