"""What the agent needs of runners, apart from how they come to be, so that tests can stand in for them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from uuid import UUID

from backendai.agent.settings import AgentSettings
from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.kernel import ImageSpec, KernelSpec, KernelStat
from backendai.runner.client import RunnerClient
from backendai.runner.zygote import RunnerZygote
from backendai.wire.runner import RunnerExit, RunnerSpec, RunnerState


class Runner(Protocol):
    """One runner as its agent holds it; see :class:`backendai.runner.client.RunnerClient`."""

    async def describe(self) -> RunnerState: ...
    async def wait_ready(self) -> RunnerState: ...
    async def wait_exit(self) -> RunnerExit: ...
    async def run(self, request: RunRequest) -> RunReply: ...
    async def interrupt(self) -> None: ...
    async def complete(self, request: CompletionRequest) -> tuple[str, ...]: ...
    async def logs(self, limit: int) -> tuple[str, bool]: ...
    async def stat(self) -> KernelStat: ...
    async def assign(self, kernel: KernelSpec) -> RunnerState: ...
    async def restart(self) -> RunnerState: ...
    async def shutdown(self, reason: str, grace: float = 0.0) -> RunnerExit: ...
    async def aclose(self) -> None: ...


class RunnerHost(Protocol):
    """Where runners come from. Both raise ``RunnerGone``, ``spawn`` also ``ZygoteFailed`` or OSError."""

    async def spawn(self, directory: Path, spec: RunnerSpec) -> Runner: ...
    async def attach(self, directory: Path) -> Runner: ...


class ZygoteHost:
    """Real runners, forked from the zygote."""

    def __init__(self, zygote: RunnerZygote) -> None:
        self._zygote = zygote

    async def spawn(self, directory: Path, spec: RunnerSpec) -> Runner:
        return await self._zygote.spawn(directory, spec)

    async def attach(self, directory: Path) -> Runner:
        return await RunnerClient.attach(directory)


def kernel_named_warm(kernel_id: UUID, image: str) -> KernelSpec:
    """What a kernel of the pool is until a session claims it."""
    return KernelSpec(kernel_id=kernel_id, session_id=kernel_id, session_name="warm", image=image)


def runner_spec(settings: AgentSettings, kernel: KernelSpec, image: ImageSpec, *, warm: bool) -> RunnerSpec:
    return RunnerSpec(
        kernel=kernel,
        image=image,
        warm=warm,
        orphan_timeout=settings.orphan_timeout.total_seconds(),
        require_full_isolation=settings.require_full_isolation,
    )
