"""The scheduler's snapshot and its reservation, inside one transaction.

Every transaction that gives slots away takes one advisory lock first. So whoever decides sees all that was
given before, and however many schedulers run at once, no agent and no quota is ever overbooked. Slots that
come back meanwhile only make more room.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.notice import SessionChanged
from backendai.core.placement import (
    AgentRoom,
    Limit,
    PendingKernel,
    PendingSession,
    Snapshot,
    Usage,
    Waiting,
)
from backendai.core.session import ClusterMode
from backendai.core.slots import Slots, stored, subtract
from backendai.storage.events import RECORD

#: The advisory lock to begin with (``Database.transaction(lock=...)``); any constant that nothing else uses.
RESERVATION_LOCK = 0x736C_6F74
#: Sessions looked at in one round.
_BATCH = 500

_PENDING = f"""
    SELECT s.id, s.ordinal, s.priority, s.access_key, s.user_id, s.project_id, s.domain_name, s.scaling_group,
           s.name, s.architecture, s.image, s.type, s.cluster_mode, s.starts_at, s.agent_list,
           (SELECT jsonb_agg(jsonb_build_array(k.id, k.requested_slots)
                ORDER BY k.cluster_role = 'main' DESC, k.cluster_idx)
            FROM kernels k WHERE k.session_id = s.id) AS kernels,
           r.max_concurrent_sessions, r.total_resource_slots AS account_slots,
           r.default_for_unspecified, p.total_resource_slots AS project_slots, d.total_resource_slots AS
           domain_slots, g.is_active AS group_active, g.scheduler_opts, ARRAY(SELECT o.name FROM
           session_dependencies x JOIN sessions o ON o.id = x.depends_on
                 WHERE x.session_id = s.id AND o.result <> 'success' ORDER BY o.name) AS unfinished
    FROM sessions s
    LEFT JOIN keypairs k ON k.access_key = s.access_key
    LEFT JOIN keypair_resource_policies r ON r.name = k.resource_policy
    LEFT JOIN projects p ON p.id = s.project_id
    LEFT JOIN domains d ON d.name = s.domain_name
    LEFT JOIN scaling_groups g ON g.name = s.scaling_group
    WHERE s.status = 'PENDING'
    ORDER BY s.priority DESC, s.ordinal LIMIT {_BATCH}
"""  # noqa: S608  a constant of this module
_FOR_PLACING = "FOR NO KEY UPDATE OF s SKIP LOCKED"
_AGENTS = """
    SELECT a.id, a.scaling_group, a.architecture, a.available_slots, a.cluster_endpoint <> '' AS linked,
           COALESCE(a.isolation ->> 'cluster-network', 'none') <> 'none' AS joins,
           (SELECT jsonb_object_agg(u.slot, u.amount::text) FROM (
               SELECT slot, sum(amount) AS amount FROM allocations
               WHERE agent_id = a.id AND ended_at IS NULL GROUP BY slot) u) AS used,
           ARRAY(SELECT i.canonical FROM agent_images g JOIN images i ON i.id = g.image_id
                 WHERE g.agent_id = a.id AND i.canonical = ANY($1)) AS images
    FROM agents a WHERE a.status = 'ALIVE' AND a.schedulable
"""
#: A kernel that is being ended no longer counts against its owner, though its agent is not free of it yet.
_USAGE = """
    WITH open AS (
        SELECT a.* FROM allocations a JOIN kernels k ON k.id = a.kernel_id
        WHERE a.ended_at IS NULL AND k.status <> 'TERMINATING'
    )
    SELECT 'account' AS owner, access_key AS id, slot, sum(amount) AS amount
        FROM open WHERE access_key = ANY($1) GROUP BY 2, 3
    UNION ALL SELECT 'project', project_id::text, slot, sum(amount) FROM open WHERE project_id = ANY($2)
    GROUP BY 2, 3 UNION ALL SELECT 'domain', domain_name, slot, sum(amount) FROM open WHERE domain_name =
    ANY($3) GROUP BY 2, 3 UNION ALL SELECT 'sessions', access_key, '', count(*) FROM sessions
        WHERE access_key = ANY($1) AND status NOT IN ('PENDING', 'TERMINATING', 'TERMINATED', 'CANCELLED')
        GROUP BY 2
"""


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel's place."""

    kernel_id: UUID
    session_id: UUID
    agent_id: str


async def read_snapshot(
    connection: Connection | Database, now: datetime, *, placing: bool = True
) -> tuple[Snapshot, dict[UUID, Row]]:
    """Pending sessions, room and usage. Also the sessions' rows by id, for what the decision does not need.

    For ``placing`` the transaction must hold :data:`RESERVATION_LOCK`, the sessions are locked, and those
    that somebody else is changing right now are left out.
    """
    rows = await connection.fetch(f"{_PENDING} {_FOR_PLACING}" if placing else _PENDING)
    if not rows:
        return Snapshot((), (), Usage({}, {}, {}, {}), now), {}
    agents = await connection.fetch(_AGENTS, list({row["image"] for row in rows}))
    usage = await connection.fetch(
        _USAGE,
        list({row["access_key"] for row in rows}),
        list({row["project_id"] for row in rows}),
        list({row["domain_name"] for row in rows}),
    )
    snapshot = Snapshot([_pending(row) for row in rows], [_room(row) for row in agents], _usage(usage), now)
    return snapshot, {row["id"]: row for row in rows}


async def doomed(connection: Connection | Database) -> dict[UUID, tuple[str, ...]]:
    """Pending sessions that wait for what will not come: those of their dependencies that are over without
    success, by name.
    """
    rows = await connection.fetch(
        """
        SELECT s.id, array_agg(o.name ORDER BY o.name) AS failed
        FROM sessions s JOIN session_dependencies x ON x.session_id = s.id
        JOIN sessions o ON o.id = x.depends_on
        WHERE s.status = 'PENDING' AND o.status IN ('TERMINATED', 'CANCELLED') AND o.result <> 'success'
        GROUP BY s.id
        """
    )
    return {row["id"]: tuple(row["failed"]) for row in rows}


async def reserve(
    connection: Connection,
    reservations: Sequence[Reservation],
    now: datetime,
    deadline: datetime,
    notices: Sequence[SessionChanged],
) -> None:
    """Give these kernels what they asked for, and their sessions the status SCHEDULED: one statement."""
    await connection.execute(
        f"""
        WITH r AS (
            SELECT * FROM jsonb_to_recordset($1) AS r(kernel_id uuid, session_id uuid, agent_id text)
        ), k AS (
            UPDATE kernels SET status = 'SCHEDULED', status_info = 'scheduled', status_data = '{{}}',
            status_changed = $2,
                   deadline = $3, agent_id = r.agent_id, occupied_slots = requested_slots
            FROM r WHERE kernels.id = r.kernel_id
        ), s AS (
            UPDATE sessions SET status = 'SCHEDULED', status_info = 'scheduled', status_data = '{{}}',
                   status_changed = $2, scheduled_at = $2, occupied_slots = requested_slots
            WHERE id IN (SELECT session_id FROM r)
            RETURNING id, access_key, user_id, project_id, domain_name
        ), a AS (
            INSERT INTO allocations (kernel_id, slot, started_at, amount, agent_id, access_key, user_id,
            project_id,
                                     domain_name)
            SELECT r.kernel_id, x.key, $2, x.value::numeric, r.agent_id, s.access_key, s.user_id,
            s.project_id,
                   s.domain_name
            FROM r JOIN s ON s.id = r.session_id JOIN kernels q ON q.id = r.kernel_id,
                 jsonb_each_text(q.requested_slots) x
        ), h AS (
            INSERT INTO session_status_history (session_id, status, status_info, at)
            SELECT id, 'SCHEDULED', 'scheduled', $2 FROM s
        )
        {RECORD} SELECT n FROM jsonb_array_elements($4::jsonb) AS n
        """,  # noqa: S608
        list(reservations),
        now,
        deadline,
        list(notices),
    )


async def prepare(
    connection: Connection | Database,
    session_ids: Sequence[UUID],
    now: datetime,
    notices: Sequence[SessionChanged],
) -> None:
    """SCHEDULED becomes PREPARING, where it still is SCHEDULED, and only there the events are recorded: one
    statement. The deadline of the start stays.
    """
    await connection.execute(
        f"""
        WITH locked AS (
            SELECT id FROM sessions WHERE id = ANY($1) AND status = 'SCHEDULED' ORDER BY id FOR NO KEY UPDATE
        ), s AS (
            UPDATE sessions SET status = 'PREPARING', status_info = NULL, status_changed = $2
            WHERE id IN (SELECT id FROM locked) RETURNING id
        ), k AS (
            UPDATE kernels SET status = 'PREPARING', status_changed = $2
            WHERE session_id IN (SELECT id FROM s) AND status = 'SCHEDULED'
        ), h AS (
            INSERT INTO session_status_history (session_id, status, at) SELECT id, 'PREPARING', $2 FROM s
        )
        {RECORD} SELECT n FROM jsonb_array_elements($3::jsonb) AS n
            WHERE (n #>> '{{event,session_id}}')::uuid IN (SELECT id FROM s)
        """,  # noqa: S608
        list(session_ids),
        now,
        list(notices),
    )


async def explain(connection: Connection, waiting: Sequence[Waiting], now: datetime) -> None:
    """Write down why these sessions wait, for their owners to see, and count the attempt."""
    await connection.execute(
        """
        UPDATE sessions SET
            status_info = w.why,
            status_data = jsonb_build_object('scheduler', jsonb_build_object(
                'retries', COALESCE((sessions.status_data #>> '{scheduler,retries}')::int, 0) + 1,
                'last_try', $2::timestamptz, 'failed_predicates', w.failed, 'passed_predicates', w.passed))
        FROM jsonb_to_recordset($1) AS w(id uuid, why text, failed jsonb, passed jsonb)
        WHERE sessions.id = w.id AND sessions.status = 'PENDING'
        """,
        [
            {
                "id": each.session_id,
                "why": each.why,
                "failed": [{"name": name, "msg": message} for name, message in each.failed.items()],
                "passed": [{"name": name} for name in each.passed],
            }
            for each in waiting
        ],
        now,
    )


def _pending(row: Row) -> PendingSession:
    types = (row["scheduler_opts"] or {}).get("allowed_session_types", ["interactive", "batch"])
    return PendingSession(
        id=row["id"],
        ordinal=row["ordinal"],
        priority=row["priority"],
        access_key=row["access_key"],
        project_id=row["project_id"],
        domain_name=row["domain_name"],
        scaling_group=row["scaling_group"],
        architecture=row["architecture"],
        image=row["image"],
        type=row["type"],
        cluster_mode=ClusterMode(row["cluster_mode"]),
        kernels=tuple(PendingKernel(UUID(id_), stored(slots)) for id_, slots in row["kernels"]),
        starts_at=row["starts_at"],
        unfinished=tuple(row["unfinished"]),
        agents=tuple(row["agent_list"]),
        max_sessions=row["max_concurrent_sessions"] or 0,
        account_limit=Limit(_stored(row["account_slots"]), row["default_for_unspecified"] != "LIMITED"),
        project_limit=Limit(_stored(row["project_slots"])),
        domain_limit=Limit(_stored(row["domain_slots"])),
        group_takes=frozenset(types) if row["group_active"] else None,
    )


def _room(row: Row) -> AgentRoom:
    free = subtract(_stored(row["available_slots"]), _stored(row["used"]))
    return AgentRoom(
        row["id"],
        row["scaling_group"],
        row["architecture"],
        free,
        frozenset(row["images"]),
        _stored(row["available_slots"]),
        joins=row["joins"],
        linked=row["linked"],
    )


def _usage(rows: Sequence[Row]) -> Usage:
    sessions: dict[str, int] = {}
    accounts: dict[str, Slots] = {}
    projects: dict[UUID, Slots] = {}
    domains: dict[str, Slots] = {}
    for row in rows:
        match row["owner"]:
            case "sessions":
                sessions[row["id"]] = int(row["amount"])
            case "account":
                accounts.setdefault(row["id"], {})[row["slot"]] = Decimal(row["amount"])
            case "project":
                projects.setdefault(UUID(row["id"]), {})[row["slot"]] = Decimal(row["amount"])
            case "domain":
                domains.setdefault(row["id"], {})[row["slot"]] = Decimal(row["amount"])
    return Usage(sessions, accounts, projects, domains)


def _stored(slots: dict[str, Any] | None) -> Slots:
    return stored(slots or {})
