"""The kernels of a session, changed together under the lock of the session's row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.cluster import ClusterMember, ClusterPeer
from backendai.core.dotfiles import in_force
from backendai.core.kernel import Dotfile, KernelFacts, KernelLimits, KernelSpec, KernelStat, ServicePort
from backendai.core.lifecycle import KernelState
from backendai.core.notice import SessionChanged
from backendai.core.session import SessionStatus, SessionType
from backendai.core.slots import stored
from backendai.storage.events import RECORD


@dataclass(frozen=True, slots=True)
class LockedKernel:
    id: UUID
    role: str
    idx: int
    state: KernelState
    agent_id: str | None
    #: Where the agent takes calls, as of now.
    address: str | None
    public_key: str


@dataclass(frozen=True, slots=True)
class LockedSession:
    id: UUID
    name: str
    type: SessionType
    status: SessionStatus
    access_key: str
    user_id: UUID
    domain_name: str
    project_id: UUID
    kernels: tuple[LockedKernel, ...]


class KernelChange(msgspec.Struct, frozen=True, kw_only=True):
    """What to write of a kernel. ``None`` keeps what is there, except for what ``status`` brings with it."""

    id: UUID
    status: str
    status_info: str | None
    status_data: dict[str, Any] | None
    status_changed: datetime
    deadline: datetime | None
    exit_code: int | None
    ended: bool
    started: bool = False
    container_id: str | None = None
    isolation: dict[str, str] | None = None
    timings: dict[str, float] | None = None
    service_ports: tuple[ServicePort, ...] | None = None
    last_stat: KernelStat | None = None


class SessionChange(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    status: str
    status_info: str | None
    status_data: dict[str, Any] | None
    result: str | None
    exit_code: int | None


async def lock(connection: Connection, kernel_id: UUID) -> LockedSession | None:
    """The session of a kernel with all its kernels, locked until the transaction ends; None if there is
    none.
    """
    rows = await connection.fetch(
        """
        SELECT s.id AS session_id, s.name, s.type, s.status AS session_status, s.access_key, s.user_id,
        s.domain_name,
               s.project_id, k.id, k.cluster_role, k.cluster_idx, k.status, k.status_info, k.status_data,
               k.status_changed, k.deadline, k.exit_code, k.agent_id, a.address, a.public_key
        FROM sessions s JOIN kernels k ON k.session_id = s.id LEFT JOIN agents a ON a.id = k.agent_id
        WHERE s.id = (SELECT session_id FROM kernels WHERE id = $1)
        ORDER BY k.cluster_role = 'main' DESC, k.cluster_idx FOR NO KEY UPDATE OF s, k
        """,
        kernel_id,
    )
    if not rows:
        return None
    first = rows[0]
    return LockedSession(
        id=first["session_id"],
        name=first["name"],
        type=SessionType(first["type"]),
        status=SessionStatus(first["session_status"]),
        access_key=first["access_key"],
        user_id=first["user_id"],
        domain_name=first["domain_name"],
        project_id=first["project_id"],
        kernels=tuple(_locked_kernel(row) for row in rows),
    )


async def write(
    connection: Connection,
    kernels: Sequence[KernelChange],
    session: SessionChange | None,
    now: datetime,
    notices: Sequence[SessionChanged],
) -> None:
    """Write changed kernels, close allocations of ended ones, the session's new status with its place in the
    history, and record the events: one statement. What it changes has to be locked.
    """
    await connection.execute(
        f"""
        WITH change AS (
            SELECT * FROM jsonb_to_recordset($1) AS c(
                id uuid, status text, status_info text, status_data jsonb, status_changed timestamptz,
                deadline timestamptz, exit_code int, ended boolean, started boolean, container_id text,
                isolation jsonb, timings jsonb, service_ports jsonb, last_stat jsonb)
        ), k AS (
            UPDATE kernels SET
                status = c.status, status_info = c.status_info, status_data = c.status_data,
                status_changed = c.status_changed, deadline = c.deadline,
                exit_code = COALESCE(c.exit_code, kernels.exit_code),
                started_at = CASE WHEN c.started THEN c.status_changed ELSE kernels.started_at END,
                terminated_at = CASE WHEN c.ended THEN c.status_changed ELSE kernels.terminated_at END,
                container_id = COALESCE(c.container_id, kernels.container_id),
                isolation = COALESCE(c.isolation, kernels.isolation),
                timings = COALESCE(c.timings, kernels.timings),
                service_ports = COALESCE(c.service_ports, kernels.service_ports),
                last_stat = COALESCE(c.last_stat, kernels.last_stat)
            FROM change c WHERE kernels.id = c.id
        ), released AS (
            UPDATE allocations SET ended_at = $3
            WHERE ended_at IS NULL AND kernel_id IN (SELECT id FROM change WHERE ended)
        ), s AS (
            UPDATE sessions SET
                status = t.status, status_info = t.status_info, status_data = t.status_data, status_changed
                = $3, result = COALESCE(t.result, sessions.result), exit_code = COALESCE(t.exit_code,
                sessions.exit_code), terminated_at = CASE WHEN t.status IN ('TERMINATED', 'CANCELLED') THEN
                $3 END
            FROM jsonb_to_record($2) AS t(
                id uuid, status text, status_info text, status_data jsonb, result text, exit_code int)
            WHERE sessions.id = t.id RETURNING sessions.id, sessions.status, sessions.status_info
        ), h AS (
            INSERT INTO session_status_history (session_id, status, status_info, at)
            SELECT id, status, status_info, $3 FROM s
        )
        {RECORD} SELECT n FROM jsonb_array_elements($4::jsonb) AS n
        """,  # noqa: S608
        list(kernels),
        session if session is not None else {},
        now,
        list(notices),
    )


async def overdue(connection: Connection | Database, now: datetime, limit: int = 200) -> list[UUID]:
    """Kernels whose deadline has passed, the longest overdue first."""
    rows = await connection.fetch(
        "SELECT id FROM kernels WHERE deadline <= $1 ORDER BY deadline LIMIT $2", now, limit
    )
    return [row["id"] for row in rows]


async def of_session(connection: Connection | Database, session_id: UUID) -> list[UUID]:
    rows = await connection.fetch(
        "SELECT id FROM kernels WHERE session_id = $1 ORDER BY cluster_idx", session_id
    )
    return [row["id"] for row in rows]


@dataclass(frozen=True, slots=True)
class LocatedKernel:
    """Where a kernel is, or was; ``started_at`` is None for one that never ran."""

    id: UUID
    status: SessionStatus
    started_at: datetime | None
    terminated_at: datetime | None
    address: str | None
    public_key: str


async def locate(
    connection: Connection | Database, session_id: UUID, kernel_id: UUID
) -> LocatedKernel | None:
    """A kernel of the session; None if it has none of that id."""
    row = await connection.fetchrow(
        """
        SELECT k.id, k.status, k.started_at, k.terminated_at, a.address, a.public_key
        FROM kernels k LEFT JOIN agents a ON a.id = k.agent_id WHERE k.id = $2 AND k.session_id = $1
        """,
        session_id,
        kernel_id,
    )
    if row is None:
        return None
    status = SessionStatus(row["status"])
    times = (row["started_at"], row["terminated_at"])
    return LocatedKernel(row["id"], status, *times, row["address"], row["public_key"] or "")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A kernel to be started, where, and what its agent must know."""

    agent_id: str
    address: str
    public_key: str
    spec: KernelSpec


async def assignments(
    connection: Connection | Database,
    *,
    session_ids: Sequence[UUID] = (),
    agent_id: str | None = None,
    before: datetime | None = None,
) -> list[Assignment]:
    """Kernels that have a place and have not started: of these sessions, of an agent, or waiting since
    ``before``.
    """
    rows = await connection.fetch(
        """
        SELECT k.id, k.session_id, k.image, k.cluster_role, k.cluster_idx, k.cluster_hostname,
        k.occupied_slots,
               k.agent_id, a.address, a.public_key, s.name, s.access_key, s.environ, s.network,
               s.bootstrap_script, s.startup_command, s.cluster_size, k.preopen_ports,
               o.dotfiles AS own_dotfiles, p.dotfiles AS project_dotfiles, d.dotfiles AS domain_dotfiles,
               CASE WHEN s.cluster_size > 1 THEN (
                   SELECT jsonb_agg(jsonb_build_object(
                       'hostname', m.cluster_hostname, 'agent', m.agent_id,
                       'endpoint', n.cluster_endpoint, 'public_key', n.public_key
                   ) ORDER BY m.cluster_role = 'main' DESC, m.cluster_idx)
                   FROM kernels m JOIN agents n ON n.id = m.agent_id WHERE m.session_id = s.id
               ) ELSE '[]' END AS members
        FROM kernels k JOIN sessions s ON s.id = k.session_id JOIN agents a ON a.id = k.agent_id
        LEFT JOIN keypairs o ON o.access_key = s.access_key LEFT JOIN projects p ON p.id = s.project_id
        LEFT JOIN domains d ON d.name = s.domain_name
        WHERE k.status IN ('SCHEDULED', 'PREPARING', 'PULLING') AND a.status = 'ALIVE'
          AND (s.id = ANY($1) OR k.agent_id = $2 OR k.status_changed < $3)
        ORDER BY s.ordinal, k.cluster_idx
        """,
        list(session_ids),
        agent_id,
        before,
    )
    return [Assignment(row["agent_id"], row["address"], row["public_key"], _spec(row)) for row in rows]


def change_of(
    kernel_id: UUID, state: KernelState, *, ended: bool, facts: KernelFacts | None, stat: KernelStat | None
) -> KernelChange:
    return KernelChange(
        id=kernel_id,
        status=state.status,
        status_info=state.reason,
        status_data=state.data,
        status_changed=state.changed,
        deadline=state.deadline,
        exit_code=state.exit_code,
        ended=ended,
        started=state.status is SessionStatus.RUNNING,
        container_id=None if facts is None else str(facts.kernel_id),
        isolation=None if facts is None else facts.isolation,
        timings=None if facts is None else facts.timings,
        service_ports=None if facts is None else facts.service_ports,
        last_stat=stat,
    )


def _locked_kernel(row: Row) -> LockedKernel:
    state = KernelState(
        SessionStatus(row["status"]),
        row["status_changed"],
        row["deadline"],
        row["status_info"],
        row["status_data"],
        row["exit_code"],
    )
    return LockedKernel(
        row["id"],
        row["cluster_role"],
        row["cluster_idx"],
        state,
        row["agent_id"],
        row["address"],
        row["public_key"] or "",
    )


def _spec(row: Row) -> KernelSpec:
    slots = stored(row["occupied_slots"])
    size = row["cluster_size"]
    hosts = ["main1", *(f"sub{number}" for number in range(1, size))]
    environ = {
        **row["environ"],
        "BACKENDAI_SESSION_ID": str(row["session_id"]),
        "BACKENDAI_SESSION_NAME": row["name"],
        "BACKENDAI_CLUSTER_SIZE": str(size),
        "BACKENDAI_CLUSTER_REPLICAS": "main:1" + (f",sub:{size - 1}" if size > 1 else ""),
        "BACKENDAI_CLUSTER_HOSTS": ",".join(hosts),
        "BACKENDAI_ACCESS_KEY": row["access_key"],
        "BACKENDAI_KERNEL_ID": str(row["id"]),
        "BACKENDAI_KERNEL_IMAGE": row["image"],
        "BACKENDAI_CLUSTER_ROLE": row["cluster_role"],
        "BACKENDAI_CLUSTER_IDX": str(row["cluster_idx"]),
        "BACKENDAI_CLUSTER_HOST": row["cluster_hostname"],
    }
    limits = KernelLimits()
    if "cpu" in slots:
        limits = msgspec.structs.replace(limits, cpu=float(slots["cpu"]))
    if "mem" in slots:
        limits = msgspec.structs.replace(limits, memory=int(slots["mem"]))
    return KernelSpec(
        kernel_id=row["id"],
        session_id=row["session_id"],
        session_name=row["name"],
        image=row["image"],
        environ=environ,
        limits=limits,
        slots=row["occupied_slots"],
        network=row["network"],
        bootstrap_script=row["bootstrap_script"],
        dotfiles=in_force(
            msgspec.convert(row[f"{holder}_dotfiles"] or [], list[Dotfile])
            for holder in ("own", "project", "domain")
        ),
        preopen_ports=tuple(row["preopen_ports"]),
        startup_command=row["startup_command"] if row["cluster_role"] == "main" else None,
        cluster_role=row["cluster_role"],
        cluster_idx=row["cluster_idx"],
        cluster_hostname=row["cluster_hostname"],
        cluster=tuple(_member(member, row["agent_id"]) for member in row["members"]),
    )


def _member(member: dict[str, Any], agent_id: str) -> ClusterMember:
    """As it is told to the agent of this id."""
    peer = None
    if member["agent"] != agent_id:
        peer = ClusterPeer(endpoint=member["endpoint"], public_key=member["public_key"])
    return ClusterMember(hostname=member["hostname"], peer=peer)
