"""Sessions as their owners use them: create, find, rename, restart, destroy."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import trio

from backendai.bridges.postgres import Database, UniqueViolation
from backendai.core.account import Principal, UserRole
from backendai.core.errors import (
    BadRequest,
    Forbidden,
    IdempotencyKeyReused,
    InsufficientPrivilege,
    KernelRestartFailed,
    ObjectNotFound,
    ServiceUnavailable,
    SessionAlreadyExists,
    TooManySessionsMatched,
)
from backendai.core.kernel import KernelStat, ServicePort
from backendai.core.lifecycle import STARTING, Broke, DestroyWanted, Reason, RestartWanted, refuses_destroy
from backendai.core.notice import SessionChanged
from backendai.core.session import (
    DEAD,
    Idempotency,
    SessionCreated,
    SessionRecord,
    SessionStatus,
    SessionWish,
)
from backendai.core.statistics import metrics
from backendai.manager.clock import Clock, wall_time
from backendai.manager.creation import Entry, SessionCreation, check_name
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
from backendai.manager.live_stats import LiveStats
from backendai.manager.notices import NoticeBoard
from backendai.manager.reconciler import Reconciler
from backendai.manager.transitions import Applied, DestroyOrder, Transitions
from backendai.storage import idempotency as idempotency_store
from backendai.storage import sessions as store
from backendai.storage.kernels import LockedSession
from backendai.storage.sessions import Found
from backendai.supervision.batching import SharedReads
from backendai.supervision.broadcast import Subscription
from backendai.wire.link import AgentAnswer, Destroyed, Refused, RestartKernel

#: Times that a name may be taken and freed again under a request that wants it.
_NAME_ATTEMPTS = 3


class SessionService:
    def __init__(
        self,
        database: Database,
        creation: SessionCreation,
        transitions: Transitions,
        reconciler: Reconciler,
        agents: AgentCaller,
        board: NoticeBoard,
        live_stats: LiveStats,
        call_timeout: float,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._creation = creation
        self._transitions = transitions
        self._reconciler = reconciler
        self._agents = agents
        self._board = board
        self._live_stats = live_stats
        self._timeout = call_timeout
        self._clock = clock
        #: Clients poll a session from many places at once.
        self._found = SharedReads(self._find)

    # -- create

    async def create(
        self,
        requester: Principal,
        owner: Principal,
        wish: SessionWish,
        idempotency: Idempotency | None = None,
    ) -> SessionCreated:
        """Enter a session, and unless told otherwise wait until it runs, or will not.

        A live session of the same name is used again if the wish allows it. When the wait is cut short, by
        cancellation or by ``max_wait``, the session stays queued. A request that repeats the ``idempotency``
        of an earlier one gets that one's session, whatever became of it. Raises the refusals of contract
        02 §2.3, :class:`IdempotencyKeyReused`, and :class:`ServiceUnavailable` when nobody can tell any more
        what became of the session.
        """
        for _ in range(_NAME_ATTEMPTS):
            if idempotency is not None:
                earlier = await self._earlier(requester, idempotency)
                if earlier is not None:
                    return await self._join(owner, earlier, wish)
            try:
                entry = await self._creation.prepare(requester, owner, wish, self._clock())
            except SessionAlreadyExists:
                if idempotency is None or await self._earlier(requester, idempotency) is None:
                    raise
                continue  # it exists because the same request came in while this one was looked at
            if isinstance(entry, Found):
                return _reused(entry.record)
            if not (wish.enqueue_only or self._board.listening):
                raise ServiceUnavailable("The service cannot follow what becomes of sessions right now.")
            with self._board.watch(entry.session_id) as changes:
                try:
                    await self._enter(entry, requester, idempotency)
                except UniqueViolation:
                    continue  # somebody was faster: what they made is found by the next attempt
                if wish.enqueue_only:
                    return _created(entry, wish, SessionStatus.PENDING)
                return _created(entry, wish, *await _await_start(changes, wish.max_wait))
        raise ServiceUnavailable("The name is being taken and freed again and again.")

    async def _enter(self, entry: Entry, requester: Principal, idempotency: Idempotency | None) -> None:
        row = None
        if idempotency is not None:
            row = {
                "access_key": requester.access_key,
                "key": idempotency.key,
                "fingerprint": idempotency.fingerprint,
                "session_id": entry.session_id,
                "created_at": self._clock(),
            }
        await store.insert(
            self._database, entry.session, entry.kernels, entry.depends_on, [entry.enqueued], row
        )

    async def _earlier(self, requester: Principal, idempotency: Idempotency) -> UUID | None:
        since = self._clock() - idempotency_store.RETENTION
        found = await idempotency_store.find(self._database, requester.access_key, idempotency.key, since)
        if found is None:
            return None
        if found.fingerprint != idempotency.fingerprint:
            raise IdempotencyKeyReused("The key was sent with another request; choose a new one for this.")
        return found.session_id

    async def _join(self, owner: Principal, session_id: UUID, wish: SessionWish) -> SessionCreated:
        """As if this request had entered the session."""
        with self._board.watch(session_id) as changes:
            record = await self.resolve(owner, str(session_id), stale=True)
            created = msgspec.structs.replace(_reused(record), created=True)
            if wish.enqueue_only or record.status not in STARTING | {SessionStatus.PENDING}:
                return created
            status, ports = await _await_start(changes, wish.max_wait)
        return msgspec.structs.replace(created, status=status, service_ports=_listed(ports))

    async def await_start(self, owner: Principal, session_id: UUID, max_wait: float) -> SessionRecord:
        """A session once it runs, or will not, or ``max_wait`` seconds are over. Raises as :meth:`create`."""
        with self._board.watch(session_id) as changes:
            record = await self.resolve(owner, str(session_id), stale=True)
            if record.status in STARTING | {SessionStatus.PENDING}:
                await _await_start(changes, max_wait)
                record = await self.resolve(owner, str(session_id), stale=True)
        return record

    async def forget_requests(self) -> None:
        """Idempotency keys mean nothing after their time."""
        await idempotency_store.prune(self._database, self._clock())

    # -- find

    async def resolve(self, owner: Principal, ref: str, *, stale: bool = False) -> SessionRecord:
        """The session of the owner that ``ref`` means: name, UUID or prefix; dead ones only with ``stale``.

        One query. Raises :class:`ObjectNotFound` or :class:`TooManySessionsMatched`.
        """
        return (await self.locate(owner, ref, stale=stale)).record

    async def _find(self, wanted: tuple[str, str, bool]) -> list[Found]:
        access_key, ref, stale = wanted
        return await store.find(self._database, access_key, ref, stale=stale)

    async def locate(self, owner: Principal, ref: str, *, stale: bool = False) -> Found:
        """As :meth:`resolve`, with the address of its agent."""
        found = await self._found.get((owner.access_key, ref, stale))
        if not found:
            raise ObjectNotFound("session")
        if len(found) > 1:
            matches = [_match(each.record) for each in found[: store.MAX_MATCHES]]
            raise TooManySessionsMatched(data={"matches": matches})
        return found[0]

    async def info(self, owner: Principal, ref: str, *, stale: bool = False) -> SessionRecord:
        """As :meth:`resolve`, with the newest statistics of a live session."""
        record = await self.resolve(owner, ref, stale=stale)
        if record.status in DEAD or record.status is SessionStatus.PENDING:
            return record
        return await self._live_stats.refresh(record)

    async def match(self, owner: Principal, prefix: str) -> list[dict[str, str]]:
        """All that ``prefix`` may mean, dead sessions included, at most ten: ``{id, name, status}``."""
        found = await store.find(self._database, owner.access_key, prefix, stale=True)
        return [
            {
                "id": str(each.record.session_id),
                "name": each.record.name,
                "status": each.record.status,
            }
            for each in found[: store.MAX_MATCHES]
        ]

    # -- change

    async def rename(self, owner: Principal, ref: str, name: str) -> None:
        """Raises :class:`BadRequest` unless running, :class:`SessionAlreadyExists` for a taken name."""
        check_name(name)
        record = await self.resolve(owner, ref)
        try:
            renamed = await store.rename(self._database, record.session_id, name)
        except UniqueViolation:
            taken = await store.find_by_name(self._database, owner.access_key, name)
            existing = record.session_id if taken is None else taken.record.session_id
            raise SessionAlreadyExists(
                "The name is in use.", data={"existingSessionId": str(existing)}
            ) from None
        if not renamed:
            raise BadRequest("Can't change name of not running session")

    async def restart(self, owner: Principal, ref: str) -> None:
        """New processes on the same files, for all kernels; returns once they run, so that the next request
        finds them.

        A restart that takes longer than a call to an agent may is not waited for. Raises
        :class:`KernelRestartFailed`.
        """
        found = await self.locate(owner, ref)
        session_id = found.record.session_id
        with self._board.watch(session_id) as changes:
            applied = await self._transitions.apply(
                session_id, RestartWanted(), whole_session=True, check=_check_running
            )
            if applied is None:
                raise ObjectNotFound("session")
            for kernel in applied.before.kernels:
                await self._order_restart(kernel.id, AgentAddress(kernel.address or "", kernel.public_key))
            status, _ = await _await_start(changes, self._timeout)
        if status in DEAD or status == SessionStatus.ERROR:
            raise KernelRestartFailed(f"The session is {status} now.")

    async def _order_restart(self, kernel_id: UUID, target: AgentAddress) -> None:
        try:
            message = RestartKernel(kernel_id=kernel_id)
            answer = await self._agents.call(target, message, timeout=self._timeout)
        except AgentUnreachable as error:
            raise KernelRestartFailed(agent_details={"type": "unreachable", "title": error.why}) from error
        if isinstance(answer, Refused):
            await self._reconciler.apply(kernel_id, Broke(f"agent-error ({answer.code})"))
            raise KernelRestartFailed(agent_details={"type": answer.code, "title": answer.msg})

    async def destroy(
        self,
        requester: Principal,
        owner: Principal,
        ref: str,
        *,
        forced: bool = False,
        recursive: bool = False,
    ) -> dict[str, Any]:
        """End a session, with ``recursive`` first those that depend on it; answers its statistics object.

        The wish is durable: an agent that is out of reach now is told later. Raises the refusals of contract
        02 §6.2.
        """
        if forced and requester.role not in (UserRole.ADMIN, UserRole.SUPERADMIN):
            raise InsufficientPrivilege("You are not allowed to force-terminate others's sessions")
        record = await self.resolve(owner, ref)
        if recursive:
            for dependant in await store.dependants(self._database, record.session_id):
                await self._destroy(dependant, forced=forced)
        return await self._destroy(record.session_id, forced=forced)

    async def _destroy(self, session_id: UUID, *, forced: bool) -> dict[str, Any]:
        def check(session: LockedSession) -> None:
            for kernel in session.kernels:
                if kernel.state.status not in DEAD:
                    refusal = refuses_destroy(kernel.state.status, forced=forced)
                    if refusal is not None:
                        raise Forbidden(refusal)

        event = DestroyWanted(Reason.USER_REQUESTED, forced=forced)
        applied = await self._transitions.apply(session_id, event, whole_session=True, check=check)
        if applied is None or applied.status is SessionStatus.CANCELLED:
            return {"status": "cancelled"}
        stat = await self._end_kernels(applied)
        return {**metrics(stat), "version": 2, "status": "terminated"}

    async def _end_kernels(self, applied: Applied) -> KernelStat | None:
        """Tell the agents; answers the last statistics of the main kernel if they could be had."""
        stat = None
        for order in applied.orders:
            answer = await self._end_kernel(order)
            if order.kernel_id == applied.before.id and isinstance(answer, Destroyed):
                stat = answer.last_stat
        return stat

    async def _end_kernel(self, order: DestroyOrder) -> AgentAnswer | None:
        try:
            return await self._reconciler.end(order, forced=False)
        except AgentUnreachable:
            self._reconciler.order(order)
            return None


async def _await_start(
    changes: Subscription[SessionChanged], max_wait: float
) -> tuple[str, tuple[ServicePort, ...]]:
    """The status in which waiting ends, ``TIMEOUT`` after ``max_wait`` seconds, 0 being no limit; and what
    the main kernel serves.
    """
    with trio.move_on_after(max_wait or float("inf")):
        async for change in changes:
            if change.event.name.startswith("session_") and (
                change.status in DEAD or change.status in (SessionStatus.RUNNING, SessionStatus.ERROR)
            ):
                return change.status, change.service_ports
        raise ServiceUnavailable("The session was entered, but the service cannot tell what became of it.")
    return "TIMEOUT", ()


def _check_running(session: LockedSession) -> None:
    if session.status is not SessionStatus.RUNNING:
        raise BadRequest(f"The session is not running but {session.status}.")


def _created(
    entry: Entry, wish: SessionWish, status: str, ports: tuple[ServicePort, ...] = ()
) -> SessionCreated:
    return SessionCreated(
        session_id=entry.session_id,
        name=wish.name,
        status=status,
        service_ports=_listed(ports),
    )


def _listed(ports: tuple[ServicePort, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(msgspec.to_builtins(port) for port in ports)


def _reused(record: SessionRecord) -> SessionCreated:
    return SessionCreated(
        session_id=record.session_id,
        name=record.name,
        status=record.status,
        service_ports=record.service_ports,
        created=False,
    )


def _match(record: SessionRecord) -> dict[str, str]:
    return {
        "id": str(record.session_id),
        "name": record.name,
        "status": record.status,
        "created_at": record.created_at.isoformat(),
    }
