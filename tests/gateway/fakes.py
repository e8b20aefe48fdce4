"""Stand-ins for the manager's services: just enough behaviour to see what the edge makes of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, cast
from uuid import UUID

import trio
from fake_keepers import FakeKeepers
from fake_streams import FakeStreams

from backendai.core.account import Credential, Principal, RateState, Secret, UserRole
from backendai.core.chronicle import Dependency, Node, Passage
from backendai.core.errors import (
    Forbidden,
    IdempotencyKeyReused,
    InvalidParameters,
    ObjectNotFound,
    ServerFrozen,
)
from backendai.core.execution import CompletionRequest, ConsoleItem, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.ids import AccessKey
from backendai.core.kernel import KernelStat
from backendai.core.session import (
    ClusterMode,
    Idempotency,
    SessionCreated,
    SessionEvent,
    SessionRecord,
    SessionResult,
    SessionStatus,
    SessionType,
    SessionWish,
)
from backendai.core.task import TaskState
from backendai.gateway.services import Services
from backendai.manager.events import EventFeed, EventFilter
from backendai.supervision.broadcast import Broadcast

SESSION_ID = UUID("11111111-2222-3333-4444-555555555555")
USER_ID = UUID("99999999-2222-3333-4444-555555555555")
PROJECT_ID = UUID("88888888-2222-3333-4444-555555555555")

USER = Principal(
    access_key=AccessKey("AKIAUSER000000000001"),
    user_id=USER_ID,
    email="user@example.org",
    role=UserRole.USER,
    domain_name="default",
    is_admin=False,
    resource_policy="default",
    rate_limit=1000,
)
ADMIN = replace(
    USER,
    access_key=AccessKey("AKIAADMIN00000000001"),
    email="admin@example.org",
    role=UserRole.SUPERADMIN,
    is_admin=True,
)
SECRETS = {USER.access_key: "user-secret", ADMIN.access_key: "admin-secret"}


@dataclass
class FakeAccounts:
    counted: list[str] = field(default_factory=list)

    async def credential(self, access_key: str) -> Credential | None:
        for principal in (USER, ADMIN):
            if principal.access_key == access_key:
                return Credential(principal, Secret(SECRETS[principal.access_key]))
        return None

    async def acting_as(self, principal: Principal, owner_access_key: str | None) -> Principal:
        for owner in (USER, ADMIN):
            if owner.access_key == owner_access_key:
                if principal is not ADMIN:
                    raise Forbidden("Only admins can act for others")
                return owner
        raise InvalidParameters("Unknown owner access key")

    async def groups_of(self, principal: Principal) -> list[tuple[UUID, str]]:
        return [(PROJECT_ID, "default")]

    def count_query(self, access_key: str) -> None:
        self.counted.append(access_key)


def record(name: str = "my-sess") -> SessionRecord:
    now = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)
    return SessionRecord(
        session_id=SESSION_ID,
        name=name,
        type=SessionType.INTERACTIVE,
        status=SessionStatus.RUNNING,
        status_info=None,
        status_data=None,
        status_changed=now,
        result=SessionResult.UNDEFINED,
        access_key=USER.access_key,
        user_id=USER_ID,
        domain_name="default",
        project_id=PROJECT_ID,
        project_name="default",
        scaling_group="default",
        image="python:3.11",
        architecture="x86_64",
        registry="local",
        tag=None,
        agent_id="i-host",
        container_id="abc",
        cluster_size=1,
        cluster_mode=ClusterMode.SINGLE_NODE,
        requested_slots={"cpu": "1", "mem": "1073741824"},
        occupied_slots={"cpu": "1", "mem": "1073741824"},
        environ={"A": "b"},
        created_at=now,
        terminated_at=None,
        num_queries=3,
        service_ports=({"name": "sshd", "protocol": "tcp", "container_ports": [2200], "url_template": None},),
        last_stat=KernelStat(cpu_used=12.0, mem=2048, mem_max=4096),
    )


@dataclass
class FakeSessions:
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    reused: bool = False
    started: trio.Event | None = None
    #: Set by a create that was cancelled while it waited.
    abandoned: bool = False

    async def create(
        self,
        requester: Principal,
        owner: Principal,
        wish: SessionWish,
        idempotency: Idempotency | None = None,
    ) -> SessionCreated:
        self.calls.append(("create", requester, owner, wish))
        self.idempotency = idempotency
        if idempotency is not None and idempotency.key == "used":
            raise IdempotencyKeyReused("choose a new one")
        if self.started is not None:
            self.started.set()
            try:
                await trio.sleep_forever()
            finally:
                self.abandoned = True
        return SessionCreated(
            session_id=SESSION_ID, name=wish.name, status="RUNNING", created=not self.reused
        )

    async def info(self, owner: Principal, ref: str, *, stale: bool = False) -> SessionRecord:
        self.calls.append(("info", owner, ref))
        if ref == "missing":
            raise ObjectNotFound("session")
        if ref == "broken":
            raise RuntimeError("secret internals")
        return record(ref)

    async def match(self, owner: Principal, prefix: str) -> list[dict[str, Any]]:
        return [{"id": str(SESSION_ID), "name": f"{prefix}-sess", "status": "RUNNING"}]

    async def destroy(
        self, requester: Principal, owner: Principal, ref: str, *, forced: bool, recursive: bool
    ) -> dict[str, Any]:
        self.calls.append(("destroy", owner, ref, forced, recursive))
        return {"version": 2, "status": "terminated"}

    async def restart(self, owner: Principal, ref: str) -> None:
        self.calls.append(("restart", owner, ref))

    async def rename(self, owner: Principal, ref: str, name: str) -> None:
        self.calls.append(("rename", owner, ref, name))


@dataclass
class FakeExecution:
    """Echoes code; ``input`` asks for a line and ``hang`` never ends."""

    requests: list[RunRequest] = field(default_factory=list)
    interrupted: trio.Event = field(default_factory=trio.Event)

    async def run(self, owner: Principal, ref: str, request: RunRequest) -> RunReply:
        self.requests.append(request)
        if request.code == "hang":
            await trio.sleep_forever()
        if request.code == "dead":
            raise ObjectNotFound("session")
        if request.code == "input":
            items = (ConsoleItem(0, "stdout", "name? "),)
            return RunReply(run_id=request.run_id, status=RunStatus.WAITING_INPUT, items=items, next_index=1)
        items = (
            ConsoleItem(0, "stdout", "one "),
            ConsoleItem(1, "stdout", request.code),
            ConsoleItem(2, "media", "data:,x", "image/png"),
            ConsoleItem(3, "stderr", "oops"),
        )
        if request.mode is RunMode.QUERY and request.code == "slow":
            return RunReply(run_id=request.run_id, status=RunStatus.CONTINUED, items=items, next_index=4)
        return RunReply(
            run_id=request.run_id, status=RunStatus.FINISHED, exit_code=0, items=items, next_index=4
        )

    async def interrupt(self, owner: Principal, ref: str) -> None:
        self.interrupted.set()

    async def complete(self, owner: Principal, ref: str, request: CompletionRequest) -> tuple[str, ...]:
        return (request.line + "nt",)

    async def logs(self, owner: Principal, ref: str, kernel_id: UUID | None = None) -> str:
        if ref == "missing":
            raise ObjectNotFound("session")
        return f"log text of {kernel_id}" if kernel_id else "log text"

    async def replay(self, owner: Principal, ref: str, run_id: str, after: int, wait: float) -> RunReply:
        self.replayed = (ref, run_id, after, wait)
        items = (ConsoleItem(after, "stdout", "two"), ConsoleItem(after + 1, "media", "data:,x", "image/png"))
        return RunReply(run_id=run_id, status=RunStatus.CONTINUED, items=items, next_index=after + 2)


@dataclass
class FakeEvents:
    broadcast: Broadcast[SessionEvent] = field(default_factory=Broadcast)
    wanted: EventFilter | None = None
    subscribed: trio.Event = field(default_factory=trio.Event)
    after: int | None = None
    reader: str | None = None
    complete: bool = True

    @asynccontextmanager
    async def subscribe(
        self,
        principal: Principal,
        wanted: EventFilter,
        *,
        after: int | None = None,
        reader: str | None = None,
    ) -> AsyncIterator[EventFeed]:
        if wanted.owner_access_key not in (None, principal.access_key):
            raise Forbidden("not yours")
        self.wanted, self.after, self.reader = wanted, after, reader
        with self.broadcast.subscribe(4) as subscription:
            self.subscribed.set()
            yield EventFeed(subscription, complete=self.complete)

    def close(self) -> None:
        self.broadcast.close()


@dataclass
class FakeTasks:
    """Tells ``states`` one after the other, of any task but the nil one."""

    states: list[TaskState] = field(default_factory=list)
    closed: bool = False

    @asynccontextmanager
    async def follow(self, principal: Principal, task_id: UUID) -> AsyncIterator[AsyncIterator[TaskState]]:
        if not task_id.int:
            raise ObjectNotFound("background task")

        async def tell() -> AsyncGenerator[TaskState, None]:
            for state in self.states:
                yield state

        async with aclosing(tell()) as states:
            yield states

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeInsight:
    """One session that runs and depends on one that is over."""

    async def explain(self, requester: Principal, owner: Principal, ref: str) -> dict[str, Any]:
        if ref == "missing":
            raise ObjectNotFound("session")
        return {
            "sessionId": str(SESSION_ID),
            "sessionName": ref,
            "status": "RUNNING",
            "since": datetime(2026, 11, 1, tzinfo=UTC),
            "history": [],
            "summary": "It runs.",
            "stops": [],
        }

    async def history(self, owner: Principal, ref: str) -> list[Passage]:
        begin = datetime(2026, 11, 1, 12, tzinfo=UTC)
        return [
            Passage(status, begin + timedelta(seconds=n), None)
            for n, status in enumerate(("PENDING", "PREPARING", "RUNNING", "RESTARTING", "RUNNING"))
        ]

    async def dependencies(self, owner: Principal, ref: str) -> Dependency:
        changed = datetime(2026, 11, 1, 12, 0, 0, 5, tzinfo=UTC)
        below = Node(USER_ID, "first", "TERMINATED", changed, ())
        return Dependency(Node(SESSION_ID, ref, "RUNNING", changed, (USER_ID,)), (Dependency(below, ()),))

    async def statuses(self, owner: Principal, session_ids: Sequence[UUID]) -> dict[UUID, str]:
        return {each: "RUNNING" for each in session_ids if each == SESSION_ID}


def event(name: str = "session_started") -> SessionEvent:
    return SessionEvent(
        id=41,
        name=name,
        session_id=SESSION_ID,
        session_name="my-sess",
        access_key=USER.access_key,
        user_id=USER_ID,
        domain_name="default",
        project_id=PROJECT_ID,
        kernel_id=SESSION_ID,
    )


@dataclass
class FakeStatus:
    state: str = "running"
    announced: dict[str, Any] = field(default_factory=lambda: {"enabled": False, "message": ""})

    async def status(self) -> dict[str, Any]:
        return {"nodes": [], "status": self.state, "active_sessions": 0}

    async def set_status(self, principal: Principal, status: str, force_kill: bool) -> None:
        self.state = status

    async def announcement(self) -> dict[str, Any]:
        return self.announced

    async def set_announcement(self, principal: Principal, enabled: bool, message: str) -> None:
        self.announced = {"enabled": enabled, "message": message}

    def gate(self, *, write: bool) -> None:
        if self.state == "frozen" and write:
            raise ServerFrozen


@dataclass
class FakeRate:
    seen: dict[str, float] = field(default_factory=dict)
    allowed: bool = True

    async def check(self, access_key: str, limit: int, *, claim: str | None = None) -> RateState:
        first_seen = None
        if claim in self.seen:
            first_seen = monotonic() - self.seen[claim]
        elif claim is not None:
            self.seen[claim] = monotonic()
        return RateState(limit, limit - 1, allowed=self.allowed, first_seen=first_seen)


@dataclass
class FakeHealth:
    components: dict[str, str] = field(default_factory=lambda: {"database": "ok", "redis": "ok"})

    async def readiness(self) -> dict[str, str]:
        return self.components


@dataclass
class Fakes:
    accounts: FakeAccounts = field(default_factory=FakeAccounts)
    sessions: FakeSessions = field(default_factory=FakeSessions)
    execution: FakeExecution = field(default_factory=FakeExecution)
    streams: FakeStreams = field(default_factory=FakeStreams)
    events: FakeEvents = field(default_factory=FakeEvents)
    tasks: FakeTasks = field(default_factory=FakeTasks)
    insight: FakeInsight = field(default_factory=FakeInsight)
    keepers: FakeKeepers = field(default_factory=FakeKeepers)
    status: FakeStatus = field(default_factory=FakeStatus)
    rate: FakeRate = field(default_factory=FakeRate)
    health: FakeHealth = field(default_factory=FakeHealth)

    def services(self) -> Services:
        return Services(
            accounts=self.accounts,
            sessions=self.sessions,
            execution=self.execution,
            streams=self.streams,
            events=self.events,
            tasks=self.tasks,
            explain=self.insight,
            chronicle=self.insight,
            **vars(self.keepers),
            status=self.status,
            rate=self.rate,
            health=self.health,
            directory=cast("Any", None),  # tests/gateway/graphql asks the real one
        )
