"""Move kernels through their life: lock, ask the rules, write, tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.kernel import KernelFacts, KernelStat, ServicePort
from backendai.core.lifecycle import (
    Deadlines,
    DestroyWanted,
    Effect,
    Event,
    KernelState,
    Reason,
    Step,
    batch_result,
    session_announcement,
    session_status,
    step,
)
from backendai.core.notice import SessionChanged
from backendai.core.session import DEAD, SessionEvent, SessionResult, SessionStatus, SessionType
from backendai.manager.clock import Clock, wall_time
from backendai.manager.link import AgentAddress
from backendai.storage import kernels as store
from backendai.storage.kernels import LockedKernel, LockedSession, SessionChange, change_of


@dataclass(frozen=True, slots=True)
class DestroyOrder:
    """An agent is to end a kernel."""

    kernel_id: UUID
    target: AgentAddress
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What an event did: the session before it, its status after it, what agents have to be told now."""

    before: LockedSession
    status: SessionStatus
    orders: tuple[DestroyOrder, ...]
    changed: bool


class Transitions:
    """Where statuses of kernels and sessions change; only the scheduler takes two steps of its own."""

    def __init__(self, database: Database, deadlines: Deadlines, clock: Clock = wall_time) -> None:
        self._database = database
        self._deadlines = deadlines
        self._clock = clock

    async def apply(
        self,
        kernel_id: UUID,
        event: Event,
        *,
        whole_session: bool = False,
        on_agent: str | None = None,
        facts: KernelFacts | None = None,
        stat: KernelStat | None = None,
        check: Callable[[LockedSession], None] | None = None,
    ) -> Applied | None:
        """Let ``event`` happen to a kernel, or to all kernels of its session; ``None`` if there is no such
        kernel.

        With ``on_agent`` a kernel that is not on that agent counts as none. ``check`` sees the locked
        session first and may raise to stop everything. What is written outlives a crash of the process;
        agents still have to be told by the caller.
        """
        now = self._clock()
        async with self._database.transaction(durable=isinstance(event, DestroyWanted)) as connection:
            session = await store.lock(connection, kernel_id)
            if session is None or not _is_on(session, kernel_id, on_agent):
                return None
            if check is not None:
                check(session)
            steps = {
                kernel.id: step(kernel.state, event, now, self._deadlines)
                if whole_session or kernel.id == kernel_id
                else Step(kernel.state)
                for kernel in session.kernels
            }
            _end_siblings(session, steps, lambda state: step(state, _SIBLING, now, self._deadlines))
            status = session_status([each.state.status for each in steps.values()])
            ports = () if facts is None or kernel_id != session.id else facts.service_ports
            notices = _notices(session, steps, status, ports)
            changes = [
                change_of(
                    kernel.id,
                    steps[kernel.id].state,
                    ended=steps[kernel.id].state.status in DEAD,
                    facts=facts if kernel.id == kernel_id else None,
                    stat=stat if kernel.id == kernel_id else None,
                )
                for kernel in session.kernels
                if steps[kernel.id].state is not kernel.state
            ]
            if changes or notices:
                summary = _summary(session, steps, status) if status is not session.status else None
                await store.write(connection, changes, summary, now, notices)
        orders = tuple(
            DestroyOrder(
                kernel.id, AgentAddress(kernel.address, kernel.public_key), _reason(steps[kernel.id])
            )
            for kernel in session.kernels
            if Effect.DESTROY in steps[kernel.id].effects and kernel.address is not None
        )
        return Applied(session, status, orders, bool(changes))


def _is_on(session: LockedSession, kernel_id: UUID, agent_id: str | None) -> bool:
    return agent_id is None or any(k.id == kernel_id and k.agent_id == agent_id for k in session.kernels)


_SIBLING = DestroyWanted(Reason.SIBLING_ENDED, forced=True)


def _end_siblings(
    session: LockedSession, steps: dict[UUID, Step], destroy: Callable[[KernelState], Step]
) -> None:
    """A session one of whose kernels is dead is over: the others follow as soon as their state allows."""
    if not any(each.state.status in DEAD for each in steps.values()):
        return
    for kernel in session.kernels:
        first = steps[kernel.id]
        if first.state.status not in DEAD:
            then = destroy(first.state)
            steps[kernel.id] = Step(
                then.state, (*first.effects, *then.effects), (*first.announce, *then.announce)
            )


def _notices(
    session: LockedSession,
    steps: dict[UUID, Step],
    status: SessionStatus,
    ports: tuple[ServicePort, ...],
) -> list[SessionChanged]:
    notices = []
    main = session.kernels[0]

    def add(name: str, kernel: LockedKernel) -> None:
        state = steps[kernel.id].state
        event = SessionEvent(
            name=name,
            session_id=session.id,
            session_name=session.name,
            access_key=session.access_key,
            user_id=session.user_id,
            domain_name=session.domain_name,
            project_id=session.project_id,
            reason=state.reason or "",
            kernel_id=kernel.id,
            cluster_role=kernel.role,
            cluster_idx=kernel.idx,
            exit_code=state.exit_code,
        )
        notices.append(SessionChanged(event=event, status=status, service_ports=ports))

    for kernel in session.kernels:
        for announced in steps[kernel.id].announce:
            add(announced, kernel)
    result = _result(session, steps, status)
    if result is not None:
        add("session_success" if result is SessionResult.SUCCESS else "session_failure", main)
    name = session_announcement(session.status, status)
    if name is not None:
        add(name, main)
    return notices


def _summary(session: LockedSession, steps: dict[UUID, Step], status: SessionStatus) -> SessionChange:
    """The session's own row: it tells what its main kernel tells, unless another one is the cause."""
    states = [steps[kernel.id].state for kernel in session.kernels]
    telling = next((state for state in states if state.status is status), states[0])
    return SessionChange(
        id=session.id,
        status=status,
        status_info=telling.reason,
        status_data=telling.data,
        result=_result(session, steps, status),
        exit_code=states[0].exit_code,
    )


def _result(session: LockedSession, steps: dict[UUID, Step], status: SessionStatus) -> SessionResult | None:
    """What a batch session came to, once it is over."""
    if session.type is not SessionType.BATCH or session.status in DEAD:
        return None
    result = batch_result(status, steps[session.kernels[0].id].state)
    return None if result is SessionResult.UNDEFINED else result


def _reason(taken: Step) -> str:
    return taken.state.reason or Reason.USER_REQUESTED
