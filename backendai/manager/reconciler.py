"""Bring book and agents together: facts move the book, orders go to the agents."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
import trio

from backendai.core.kernel import KernelFacts, KernelStat
from backendai.core.lifecycle import Creating, Ended, Event, Pulling, Started, StartFailed
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
from backendai.manager.logs import LogArchive
from backendai.manager.transitions import Applied, DestroyOrder, Transitions
from backendai.storage.kernels import Assignment
from backendai.wire.link import (
    AgentAnswer,
    CreateKernel,
    DestroyKernel,
    KernelCreating,
    KernelEvent,
    KernelFailed,
    KernelPulling,
    KernelStarted,
    KernelTerminated,
    Refused,
)

log = structlog.get_logger(__name__)

#: Orders under way at once; more wait their turn.
_CONCURRENCY = 64
#: Seconds for copying the output of a kernel before it is ended.
_LOGS_TIMEOUT = 5.0

#: Characters kept of a reason, which travels in notices of limited size, and of the detail of a failure.
_REASON = 200
_DETAIL = 10_000


@dataclass(frozen=True, slots=True)
class LogOrder:
    """The output of a kernel that has ended is to be fetched from its agent."""

    kernel_id: UUID
    target: AgentAddress


class Reconciler:
    """Applies what happened, and gives the orders that follow from it.

    Orders wait in memory for :meth:`run`. Losing them does no harm: the book shows what is wanted, and the
    sweep finds kernels that disagree with it.
    """

    def __init__(
        self, transitions: Transitions, agents: AgentCaller, logs: LogArchive, call_timeout: float
    ) -> None:
        self._logs = logs
        self._transitions = transitions
        self._agents = agents
        self._timeout = call_timeout
        self._orders: deque[Assignment | DestroyOrder | LogOrder] = deque()
        self._waiting = trio.Event()
        self._starting: set[UUID] = set()
        self._copying: set[UUID] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out orders until cancelled."""
        limiter = trio.CapacityLimiter(_CONCURRENCY)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                while self._orders:
                    order = self._orders.popleft()
                    if isinstance(order, LogOrder):  # these have bounds of their own, and may wait long
                        nursery.start_soon(self._fetch, order)
                    else:
                        nursery.start_soon(self._carry_out, order, limiter)
                self._waiting = trio.Event()
                await self._waiting.wait()

    async def apply(
        self,
        kernel_id: UUID,
        event: Event,
        *,
        whole_session: bool = False,
        on_agent: str | None = None,
        facts: KernelFacts | None = None,
        stat: KernelStat | None = None,
    ) -> Applied | None:
        """Let an event happen and order what follows from it."""
        applied = await self._transitions.apply(
            kernel_id, event, whole_session=whole_session, on_agent=on_agent, facts=facts, stat=stat
        )
        if applied is not None:
            self.order(*applied.orders)
        return applied

    async def take_fact(self, event: KernelEvent, agent_id: str, sender: AgentAddress) -> None:
        """A fact from an agent about one of its kernels; the same fact again does nothing.

        What an agent says of kernels that are not its own is not believed.
        """

        async def happened(what: Event, **more: Any) -> bool:
            applied = await self.apply(event.kernel_id, what, on_agent=agent_id, **more)
            return applied is not None

        match event:
            case KernelPulling():
                await happened(Pulling(told(event.reason)))
            case KernelCreating():
                await happened(Creating())
            case KernelStarted():
                if not await happened(Started(), facts=event.facts):
                    self.order(DestroyOrder(event.kernel_id, sender, "unknown-kernel"))
            case KernelFailed():
                await happened(StartFailed(told(event.code), told(event.detail, _DETAIL)))
            case KernelTerminated():
                ended = Ended(told(event.reason), event.exit_code)
                if await happened(ended, stat=event.last_stat):
                    self.order(LogOrder(event.kernel_id, sender))

    def order(self, *orders: Assignment | DestroyOrder | LogOrder) -> None:
        """Have agents start or end kernels, or give their output, soon. What is under way already is not
        repeated, except ending.
        """
        for order in orders:
            if isinstance(order, Assignment):
                if order.spec.kernel_id in self._starting:
                    continue
                self._starting.add(order.spec.kernel_id)
            if isinstance(order, LogOrder):
                if order.kernel_id in self._copying:
                    continue
                self._copying.add(order.kernel_id)
            self._orders.append(order)
        self._waiting.set()

    async def end(self, order: DestroyOrder, *, forced: bool) -> AgentAnswer:
        """Have a kernel ended now, its output being copied first; ``forced`` gives it no time to say goodbye.

        Raises :class:`AgentUnreachable`.
        """
        await self._logs.keep(order.kernel_id, order.target, _LOGS_TIMEOUT)
        message = DestroyKernel(kernel_id=order.kernel_id, reason=order.reason, forced=forced)
        return await self._agents.call(order.target, message, timeout=self._timeout)

    async def _fetch(self, order: LogOrder) -> None:
        try:
            await self._logs.fetch(order.kernel_id, order.target, self._timeout)
        finally:
            self._copying.discard(order.kernel_id)

    async def _carry_out(self, order: Assignment | DestroyOrder, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            match order:
                case Assignment():
                    try:
                        await self._start(order)
                    finally:
                        self._starting.discard(order.spec.kernel_id)
                case DestroyOrder():
                    await self._destroy(order)

    async def _start(self, order: Assignment) -> None:
        kernel_id = order.spec.kernel_id
        target = AgentAddress(order.address, order.public_key)
        try:
            answer = await self._agents.call(target, CreateKernel(spec=order.spec), timeout=self._timeout)
        except AgentUnreachable as error:
            # Whether it starts is unknown. The sweep asks again until the deadline of the start.
            log.warning(
                "reconciler.start-unanswered", kernel=str(kernel_id), agent=order.agent_id, why=error.why
            )
            return
        if isinstance(answer, Refused):
            log.warning(
                "reconciler.start-refused", kernel=str(kernel_id), agent=order.agent_id, code=answer.code
            )
            await self.apply(kernel_id, StartFailed(answer.code, answer.msg))

    async def _destroy(self, order: DestroyOrder) -> None:
        try:
            await self.end(order, forced=True)
        except AgentUnreachable as error:
            log.warning("reconciler.destroy-unanswered", kernel=str(order.kernel_id), why=error.why)


def told(text: str, limit: int = _REASON) -> str:
    """What an agent tells may quote a kernel, and that may have printed anything."""
    return text.replace("\0", "\ufffd")[:limit]
