"""What the agent needs of runners, apart from how they come to be, so that tests can stand in for them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog
import trio

from backendai.agent.settings import AgentSettings
from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.files import FileListing
from backendai.core.kernel import ImageSpec, KernelSpec, KernelStat, ServicePort
from backendai.runner.client import RunnerClient, read_last_state
from backendai.runner.zygote import RunnerZygote
from backendai.wire.runner import RunnerExit, RunnerSpec, RunnerState

log = structlog.get_logger(__name__)

#: Seconds until a runner that was told to end, beyond the grace for its kernel, is given up.
_SHUTDOWN_TIMEOUT = 3.0


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
    async def shutdown(self, reason: str, grace: float = 0.0, *, keep_output: bool = False) -> RunnerExit: ...
    async def list_files(self, path: str) -> FileListing: ...
    async def start_service(
        self,
        name: str,
        port: int | None,
        environ: dict[str, str],
        arguments: dict[str, str | tuple[str, ...] | None],
    ) -> int: ...
    async def stop_service(self, name: str) -> None: ...
    async def services(self) -> tuple[ServicePort, ...]: ...
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


async def shut_down(
    runner: Runner, directory: Path, reason: str, grace: float = 0.0, *, keep_output: bool = False
) -> RunnerExit:
    """End a kernel and its runner; one that takes some seconds more than ``grace`` is killed.

    With ``keep_output`` what it printed stays in the directory. Raises ``RunnerGone``. Shielded: an end
    that was begun is seen through.
    """
    with trio.move_on_after(grace + _SHUTDOWN_TIMEOUT, shield=True):
        return await runner.shutdown(reason, grace, keep_output=keep_output)
    log.error("agent.runner-hangs", directory=directory.name)
    kill_runner(directory)
    return RunnerExit(reason=reason)


def kill_runner(directory: Path) -> None:
    """Make sure that no runner works in ``directory`` any more; a sandbox dies with its runner."""
    state = read_last_state(directory)
    if state is None or state.runner_identity != _identity(state.runner_pid):
        return
    with suppress(ProcessLookupError):
        os.kill(state.runner_pid, signal.SIGKILL)


def _identity(pid: int) -> str | None:
    """As runners write it down: boot id of the machine and start time of the process."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{started}"


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
