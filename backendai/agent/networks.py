"""The networks of the sessions that have several kernels, as far as they are on this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog
import trio

from backendai.agent.cluster_link import ClusterLink
from backendai.core.cluster import NetworkPaths
from backendai.core.kernel import KernelSpec
from backendai.engines.contract import SandboxFailed
from backendai.engines.networks import make_network
from backendai.engines.plugging import SessionNetwork

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Shared:
    """One session's."""

    kernels: set[UUID] = field(default_factory=set)
    network: SessionNetwork | None = None
    making: trio.Lock = field(default_factory=trio.Lock)
    #: Around the passage to members on other agents.
    carried: trio.CancelScope | None = None


class SessionNetworks:
    """Made for the first kernel of a session here, held until the last has left.

    The runners hold them too, so that they outlive the agent; the next one gets them from there.
    """

    def __init__(self, link: ClusterLink | None) -> None:
        self._link = link
        self._sessions: dict[UUID, _Shared] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have members on other agents reached, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            if self._link is not None:
                self._nursery.start_soon(self._link.run)
            task_status.started()
            await trio.sleep_forever()

    async def join(self, spec: KernelSpec) -> NetworkPaths | None:
        """The network for a kernel, ``None`` for one that is alone. It is to :meth:`leave` in any case.

        Raises :class:`~backendai.engines.contract.SandboxFailed`.
        """
        if not spec.cluster:
            return None
        shared = self._of(spec)
        async with shared.making:
            if shared.network is None:
                network = await make_network()
                try:
                    await self._carry(spec, shared, network)
                except BaseException:
                    network.close()
                    raise
                shared.network = network
        return shared.network.paths

    async def adopt(self, spec: KernelSpec, paths: NetworkPaths) -> None:
        """Take up the network of a kernel that an earlier agent started."""
        shared = self._of(spec)
        if shared.network is None:
            try:
                shared.network = SessionNetwork.open(paths)
            except OSError as error:  # the runner has just ended, which its own connection tells
                log.warning("agent.network-gone", session=str(spec.session_id), error=str(error))
                return
            try:
                await self._carry(spec, shared, shared.network)
            except SandboxFailed as error:
                log.error("agent.cluster-cut", session=str(spec.session_id), error=str(error))

    def leave(self, spec: KernelSpec) -> None:
        """A kernel has ended, or never was."""
        shared = self._sessions.get(spec.session_id)
        if shared is None:
            return
        shared.kernels.discard(spec.kernel_id)
        if not shared.kernels:
            del self._sessions[spec.session_id]
            if shared.carried is not None:
                shared.carried.cancel()
            if shared.network is not None:
                shared.network.close()

    def _of(self, spec: KernelSpec) -> _Shared:
        shared = self._sessions.setdefault(spec.session_id, _Shared())
        shared.kernels.add(spec.kernel_id)
        return shared

    async def _carry(self, spec: KernelSpec, shared: _Shared, network: SessionNetwork) -> None:
        """Returns once frames for members elsewhere are carried, if there are any."""
        if not any(member.peer for member in spec.cluster):
            return
        if self._nursery is None:
            raise RuntimeError("networks reach others only while run() does")
        if (link := self._link) is None:
            raise SandboxFailed("no-network", "this agent has no link to other agents (--cluster-endpoint)")

        async def carry(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.CancelScope() as shared.carried:
                await link.carry(spec.session_id, spec.cluster, network, task_status=task_status)

        await self._nursery.start(carry)
