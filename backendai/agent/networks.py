"""The networks of the sessions that have several kernels, as far as they are on this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import structlog
import trio

from backendai.core.cluster import NetworkPaths
from backendai.core.kernel import KernelSpec
from backendai.engines.networks import make_network
from backendai.engines.plugging import SessionNetwork

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Shared:
    """One session's."""

    kernels: set[UUID] = field(default_factory=set)
    network: SessionNetwork | None = None
    making: trio.Lock = field(default_factory=trio.Lock)


class SessionNetworks:
    """Made for the first kernel of a session here, held until the last has left.

    The runners hold them too, so that they outlive the agent; the next one gets them from there.
    """

    def __init__(self) -> None:
        self._sessions: dict[UUID, _Shared] = {}

    async def join(self, spec: KernelSpec) -> NetworkPaths | None:
        """The network for a kernel, ``None`` for one that is alone. It is to :meth:`leave` in any case.

        Raises :class:`~backendai.engines.contract.SandboxFailed`.
        """
        if not spec.cluster:
            return None
        shared = self._of(spec)
        async with shared.making:
            if shared.network is None:
                shared.network = await make_network()
        return shared.network.paths

    def adopt(self, spec: KernelSpec, paths: NetworkPaths) -> None:
        """Take up the network of a kernel that an earlier agent started."""
        shared = self._of(spec)
        if shared.network is None:
            try:
                shared.network = SessionNetwork.open(paths)
            except OSError as error:  # the runner has just ended, which its own connection tells
                log.warning("agent.network-gone", session=str(spec.session_id), error=str(error))

    def leave(self, spec: KernelSpec) -> None:
        """A kernel has ended, or never was."""
        shared = self._sessions.get(spec.session_id)
        if shared is None:
            return
        shared.kernels.discard(spec.kernel_id)
        if not shared.kernels:
            del self._sessions[spec.session_id]
            if shared.network is not None:
                shared.network.close()

    def _of(self, spec: KernelSpec) -> _Shared:
        shared = self._sessions.setdefault(spec.session_id, _Shared())
        shared.kernels.add(spec.kernel_id)
        return shared
