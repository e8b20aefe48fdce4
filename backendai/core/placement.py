"""Who runs next, and where: a pure function of a snapshot (contract 05 §10).

Sessions are taken by priority; among equals the account that has the least running comes first, and within an
account the oldest session. A session that finds no room holds up the younger ones of its own account,
nobody else's. Every session that has to wait is told why, by the names of predicates that clients know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from backendai.core.session import ClusterMode
from backendai.core.slots import Slots, add, exceeded, format_amount, subtract


@dataclass(frozen=True, slots=True)
class AgentRoom:
    """An agent that takes kernels, with what it has free."""

    id: str
    scaling_group: str
    architecture: str
    free: Slots
    #: Canonical references of the images it can start.
    images: frozenset[str]
    #: What it has when nothing runs there.
    capacity: Slots = field(default_factory=dict)
    #: Whether kernels of one session can have a network there, and one that reaches to other agents.
    joins: bool = True
    linked: bool = True


@dataclass(frozen=True, slots=True)
class Limit:
    """Slots that an account, project or domain may occupy; ``unspecified``: others are free of limit."""

    slots: Slots
    unspecified: bool = True


@dataclass(frozen=True, slots=True)
class PendingKernel:
    id: UUID
    slots: Slots


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSession:
    id: UUID
    ordinal: int
    priority: int
    access_key: str
    project_id: UUID
    domain_name: str
    scaling_group: str
    architecture: str
    image: str
    type: str
    cluster_mode: ClusterMode
    kernels: tuple[PendingKernel, ...]
    starts_at: datetime | None = None
    #: Names of sessions it depends on that have not succeeded (yet).
    unfinished: tuple[str, ...] = ()
    #: Agents named by a superadmin, one per kernel or one for all; empty leaves the choice to us.
    agents: tuple[str, ...] = ()
    #: 0 is no limit.
    max_sessions: int = 0
    account_limit: Limit = Limit({})
    project_limit: Limit = Limit({})
    domain_limit: Limit = Limit({})
    #: Session types its scaling group takes; None when the group is closed.
    group_takes: frozenset[str] | None = frozenset({"interactive", "batch"})

    @property
    def total(self) -> Slots:
        return add(*(kernel.slots for kernel in self.kernels))


@dataclass(frozen=True, slots=True)
class Usage:
    """What is occupied already, by owner."""

    sessions: Mapping[str, int]
    accounts: Mapping[str, Slots]
    projects: Mapping[UUID, Slots]
    domains: Mapping[str, Slots]


@dataclass(frozen=True, slots=True)
class Snapshot:
    pending: Sequence[PendingSession]
    agents: Sequence[AgentRoom]
    usage: Usage
    now: datetime


@dataclass(frozen=True, slots=True)
class Placed:
    session_id: UUID
    #: Kernel to agent.
    agents: Mapping[UUID, str]


@dataclass(frozen=True, slots=True)
class Waiting:
    session_id: UUID
    #: ``predicate-checks-failed`` or ``no-available-instances``.
    why: str
    passed: tuple[str, ...]
    #: Predicate name to message.
    failed: Mapping[str, str] = field(default_factory=dict)
    #: An older session of the same account finds no room, and goes first.
    held_up: bool = False


Decision = Placed | Waiting


def place(snapshot: Snapshot) -> list[Decision]:
    """Decide about every pending session. What is placed fits together, within all limits."""
    return _Round(snapshot).run()


class _Round:
    """Running totals of one call of :func:`place`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._free = {agent.id: dict(agent.free) for agent in snapshot.agents}
        self._sessions = dict(snapshot.usage.sessions)
        self._accounts = dict(snapshot.usage.accounts)
        self._projects = dict(snapshot.usage.projects)
        self._domains = dict(snapshot.usage.domains)

    def run(self) -> list[Decision]:
        queues: dict[str, list[PendingSession]] = {}
        for session in sorted(self._snapshot.pending, key=lambda s: (-s.priority, s.ordinal)):
            queues.setdefault(session.access_key, []).append(session)
        decisions: list[Decision] = []
        blocked: set[str] = set()
        while queues:
            key = min(queues, key=lambda k: self._turn(k, queues[k][0]))
            session = queues[key].pop(0)
            if not queues[key]:
                del queues[key]
            decision = self._decide(session, blocked=key in blocked)
            if isinstance(decision, Waiting) and not decision.failed:
                blocked.add(key)
            decisions.append(decision)
        return decisions

    def _turn(self, key: str, first: PendingSession) -> tuple[int, int, int]:
        return (-first.priority, self._sessions.get(key, 0), first.ordinal)

    def _decide(self, session: PendingSession, *, blocked: bool) -> Decision:
        checks = list(self._predicates(session))
        passed = tuple(name for name, message in checks if message is None)
        failed = {name: message for name, message in checks if message is not None}
        if failed:
            return Waiting(session.id, "predicate-checks-failed", passed, failed)
        agents = None if blocked else self._choose(session)
        if agents is None:
            return Waiting(session.id, "no-available-instances", passed, held_up=blocked)
        self._take(session, agents)
        return Placed(session.id, agents)

    def _predicates(self, session: PendingSession) -> Iterable[tuple[str, str | None]]:
        starts_at = session.starts_at
        early = starts_at is not None and starts_at > self._snapshot.now
        yield "reserved_time", f"Before the reserved start, {starts_at}" if early else None
        running = self._sessions.get(session.access_key, 0)
        full = 0 < session.max_sessions <= running
        yield (
            "concurrency",
            f"You cannot run more than {session.max_sessions} concurrent sessions" if full else None,
        )
        waits_for = ", ".join(session.unfinished)
        yield (
            "dependencies",
            f"Waiting dependency sessions to finish as success. ({waits_for})" if waits_for else None,
        )
        owners: tuple[tuple[str, str, Limit, Slots], ...] = (
            (
                "keypair_resource_limit",
                "keypair",
                session.account_limit,
                self._accounts.get(session.access_key, {}),
            ),
            (
                "user_group_resource_limit",
                "user group",
                session.project_limit,
                self._projects.get(session.project_id, {}),
            ),
            (
                "domain_resource_limit",
                "domain",
                session.domain_limit,
                self._domains.get(session.domain_name, {}),
            ),
        )
        for name, owner, limit, used in owners:
            yield name, _over(owner, add(used, session.total), limit)
        takes = session.group_takes
        refused = takes is None or session.type not in takes
        yield (
            "scaling_group_resource_limit",
            f"The scaling group {session.scaling_group!r} does not take {session.type} sessions"
            if refused
            else None,
        )

        if len(session.kernels) > 1:
            yield "cluster_network", _cut_off(session, self._snapshot.agents)

    def _choose(self, session: PendingSession) -> dict[UUID, str] | None:
        """One agent for all kernels, or one for each; None when there is no room.

        Kernels that may spread do so over agents that have a link to each other, else they stay together.
        """
        candidates = [agent for agent in self._snapshot.agents if _suits(agent, session)]
        if session.cluster_mode is ClusterMode.MULTI_NODE:
            spread = self._spread(session, [agent for agent in candidates if agent.linked])
            if spread is not None or len(set(session.agents)) > 1:
                return spread
        agent = self._roomiest(candidates, session.total, self._free)
        return None if agent is None else dict.fromkeys((k.id for k in session.kernels), agent)

    def _spread(self, session: PendingSession, candidates: Sequence[AgentRoom]) -> dict[UUID, str] | None:
        free = {agent.id: dict(self._free[agent.id]) for agent in candidates}
        chosen = {}
        for position, kernel in enumerate(session.kernels):
            named = session.agents[position : position + 1] if session.agents else ()
            rooms = [agent for agent in candidates if not named or agent.id in named]
            agent = self._roomiest(rooms, kernel.slots, free)
            if agent is None:
                return None
            free[agent] = subtract(free[agent], kernel.slots)
            chosen[kernel.id] = agent
        return chosen

    @staticmethod
    def _roomiest(candidates: Sequence[AgentRoom], wanted: Slots, free: Mapping[str, Slots]) -> str | None:
        """Keep agents with rare devices for those who ask for them; among the rest spread the load."""
        rooms = [a.id for a in candidates if not any(exceeded(wanted, free[a.id], unspecified=False))]
        if not rooms:
            return None

        def rank(agent: str) -> tuple[int, Decimal, Decimal, str]:
            slots = free[agent]
            idle_kinds = sum(1 for slot, amount in slots.items() if amount > 0 and not wanted.get(slot))
            return (idle_kinds, -slots.get("cpu", Decimal(0)), -slots.get("mem", Decimal(0)), agent)

        return min(rooms, key=rank)

    def _take(self, session: PendingSession, agents: Mapping[UUID, str]) -> None:
        for kernel in session.kernels:
            agent = agents[kernel.id]
            self._free[agent] = subtract(self._free[agent], kernel.slots)
        key, total = session.access_key, session.total
        self._sessions[key] = self._sessions.get(key, 0) + 1
        self._accounts[key] = add(self._accounts.get(key, {}), total)
        self._projects[session.project_id] = add(self._projects.get(session.project_id, {}), total)
        self._domains[session.domain_name] = add(self._domains.get(session.domain_name, {}), total)


def unsuited(agent: AgentRoom, session: PendingSession) -> str | None:
    """Why the agent can never take the session, however much it has free; None if it can."""
    if agent.scaling_group != session.scaling_group:
        return "scaling group"
    if agent.architecture != session.architecture:
        return "architecture"
    if session.image not in agent.images:
        return "image"
    if session.agents and agent.id not in session.agents:
        return "chosen agents"
    if len(session.kernels) > 1 and not agent.joins:
        return "network of a cluster"
    return None


def _cut_off(session: PendingSession, agents: Iterable[AgentRoom]) -> str | None:
    """Why the kernels of a session could not reach each other, wherever they are put."""
    alone = replace(session, kernels=session.kernels[:1])
    suitable = [agent for agent in agents if _suits(agent, alone)]
    if suitable and not any(agent.joins for agent in suitable):
        return "No agent can give the kernels of a session a network. (`backendai doctor` tells why)"
    named = len(set(session.agents)) > 1
    if session.cluster_mode is ClusterMode.MULTI_NODE and named:
        unlinked = [agent.id for agent in suitable if not agent.linked]
        if unlinked:
            return f"The chosen agents have no link to each other. (--cluster-endpoint of {min(unlinked)})"
    return None


def _suits(agent: AgentRoom, session: PendingSession) -> bool:
    return unsuited(agent, session) is None


@dataclass(frozen=True, slots=True)
class Fit:
    """How far an agent is from having room for a session, or, if its kernels may spread, for one of them."""

    agent: str
    #: What would have to come free.
    missing: Slots
    #: It would never fit, though nothing else ran there.
    too_small: bool


def nearest_fit(snapshot: Snapshot, session: PendingSession) -> Fit | None:
    """The suitable agent that lacks least; None when no agent suits."""
    total = session.total
    largest = max((kernel.slots for kernel in session.kernels), key=lambda slots: sorted(slots.items()))
    spreads = session.cluster_mode is ClusterMode.MULTI_NODE
    fits = [
        _fit(agent, largest if spreads and agent.linked else total)
        for agent in snapshot.agents
        if _suits(agent, session)
    ]

    def distance(fit: Fit) -> tuple[bool, Decimal, str]:
        shares = (amount / (total[slot] or 1) for slot, amount in fit.missing.items())
        return fit.too_small, sum(shares, Decimal(0)), fit.agent

    return min(fits, key=distance, default=None)


def _fit(agent: AgentRoom, wanted: Slots) -> Fit:
    missing = {
        slot: amount - agent.free.get(slot, Decimal(0))
        for slot, amount in wanted.items()
        if amount > agent.free.get(slot, Decimal(0))
    }
    too_small = any(amount > agent.capacity.get(slot, Decimal(0)) for slot, amount in wanted.items())
    return Fit(agent.id, missing, too_small)


def _over(owner: str, wanted: Slots, limit: Limit) -> str | None:
    slots = list(exceeded(wanted, limit.slots, unspecified=limit.unspecified))
    if not slots:
        return None
    told = " ".join(f"{slot}={format_amount(limit.slots.get(slot, Decimal(0)))}" for slot in slots)
    return f"Your {owner} resource quota is exceeded. ({told})"
