"""Sessions: entering them, finding them by what people call them, telling of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.kernel import KernelStat
from backendai.core.notice import SessionChanged
from backendai.core.session import (
    ClusterMode,
    SessionRecord,
    SessionResult,
    SessionStatus,
    SessionType,
)
from backendai.storage.events import RECORD

#: More hits than this are not looked at (contract 02 §0).
MAX_MATCHES = 10

_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED')"
_COLUMNS = """
    s.id, s.name, s.type, s.status, s.status_info, s.status_data, s.status_changed, s.result, s.access_key,
    s.user_id, s.domain_name, s.project_id, s.project_name, s.scaling_group, s.image, s.architecture,
    s.registry, s.tag, s.cluster_size, s.cluster_mode, s.requested_slots, s.occupied_slots, s.environ,
    s.created_at, s.terminated_at, s.num_queries, k.agent_id, k.container_id, k.service_ports, k.isolation,
    k.last_stat, a.address, a.public_key
"""
_FROM = "FROM sessions s JOIN kernels k ON k.id = s.id LEFT JOIN agents a ON a.id = k.agent_id"


@dataclass(frozen=True, slots=True)
class Found:
    """A session and where its main kernel's agent takes calls, if it has one."""

    record: SessionRecord
    address: str | None
    public_key: str


_BY_UUID = f"""
    SELECT {_COLUMNS} {_FROM}
    WHERE s.id = COALESCE((SELECT session_id FROM kernels WHERE id = $2), $2) AND s.access_key = $1
      AND ($3 OR {_LIVE})
"""  # noqa: S608  constants of this module
_BY_NAME = f"""
    SELECT {_COLUMNS} {_FROM}
    WHERE s.access_key = $1 AND s.name LIKE $3 AND ($4 OR {_LIVE})
    ORDER BY (s.name = $2) DESC, ({_LIVE}) DESC, s.created_at DESC LIMIT {MAX_MATCHES + 1}
"""
#: The text may begin a UUID: those of sessions come before names, those of kernels after.
_BY_ANYTHING = f"""
    WITH hits AS (
        SELECT h.id, CASE WHEN h.id::text LIKE $3 THEN 1 WHEN h.name = $2 THEN 2 WHEN h.name LIKE $3 THEN 3
        ELSE 4 END
               AS rank
        FROM sessions h
        WHERE h.access_key = $1 AND ($4 OR h.status NOT IN ('TERMINATED', 'CANCELLED'))
          AND (h.id::text LIKE $3 OR h.name LIKE $3
               OR EXISTS (SELECT FROM kernels o WHERE o.session_id = h.id AND o.id::text LIKE $3))
    )
    SELECT {_COLUMNS} {_FROM} JOIN hits ON hits.id = s.id
    WHERE hits.rank = (SELECT min(rank) FROM hits)
    ORDER BY (s.name = $2) DESC, ({_LIVE}) DESC, s.created_at DESC LIMIT {MAX_MATCHES + 1}
"""  # noqa: S608
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_PREFIX = re.compile(r"[0-9a-f-]{1,36}")


async def find(
    connection: Connection | Database, access_key: str, reference: str, *, stale: bool = False
) -> list[Found]:
    """Sessions of the key that ``reference`` may mean, by the rules of contract 02 §0, in one query.

    More than one means that the reference is ambiguous. A name that several sessions had, one after the
    other, is not: it means the live one, or else the newest.
    """
    if "\0" in reference:  # no text that PostgreSQL could hold, let alone compare
        return []
    if _UUID.fullmatch(reference):
        rows = await connection.fetch(_BY_UUID, access_key, UUID(reference), stale)
        if rows:
            return [_found(rows[0])]
    query = _BY_ANYTHING if _UUID_PREFIX.fullmatch(reference) else _BY_NAME
    rows = await connection.fetch(query, access_key, reference, _prefix_pattern(reference), stale)
    exact = [row for row in rows if row["name"] == reference]
    return [_found(row) for row in exact[:1] or rows]


async def find_by_name(connection: Connection | Database, access_key: str, name: str) -> Found | None:
    """The live session of exactly that name."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} {_FROM} WHERE s.access_key = $1 AND s.name = $2 AND {_LIVE}",
        access_key,
        name,
    )
    return None if row is None else _found(row)


async def find_ids(
    connection: Connection | Database, access_key: str, references: Sequence[str]
) -> dict[str, UUID]:
    """Ids of sessions of the key by exact name or UUID, dead ones included; the newest of a name."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT ON (r.reference) r.reference, s.id
        FROM unnest($2::text[]) AS r(reference)
        JOIN sessions s ON s.access_key = $1 AND (s.name = r.reference OR s.id::text = r.reference)
        ORDER BY r.reference, s.created_at DESC
        """,
        access_key,
        list(references),
    )
    return {row["reference"]: row["id"] for row in rows}


async def dependants(connection: Connection | Database, session_id: UUID) -> list[UUID]:
    """Live sessions that depend on this one, directly or not."""
    rows = await connection.fetch(
        f"""
        WITH RECURSIVE d(id) AS (
            SELECT session_id FROM session_dependencies WHERE depends_on = $1
            UNION SELECT n.session_id FROM session_dependencies n JOIN d ON n.depends_on = d.id
        )
        SELECT s.id FROM sessions s JOIN d USING (id) WHERE {_LIVE}
        """,  # noqa: S608
        session_id,
    )
    return [row["id"] for row in rows]


_SESSION_FIELDS = """
    id, name, type, status, status_changed, access_key, user_id, domain_name, project_id, project_name,
    scaling_group, image, architecture, registry, tag, cluster_mode, cluster_size, priority, requested_slots,
    resource_opts, environ, mounts, mount_map, preopen_ports, agent_list, startup_command, bootstrap_script,
    callback_url, batch_timeout, network, starts_at, created_at
"""
_KERNEL_FIELDS = """
    id, session_id, cluster_role, cluster_idx, cluster_hostname, image, architecture, registry, status,
    status_changed, deadline, requested_slots, resource_opts, preopen_ports, created_at
"""


async def insert(
    connection: Connection | Database,
    session: Mapping[str, Any],
    kernels: Sequence[Mapping[str, Any]],
    depends_on: Sequence[UUID],
    notices: Sequence[SessionChanged],
    idempotency: Mapping[str, Any] | None = None,
) -> None:
    """Enter a session with all its kernels, in one statement: all or nothing. ``idempotency`` is a row.

    Raises :class:`backendai.bridges.postgres.UniqueViolation` when the key has a live session of that name,
    or there is such a row.
    """
    await connection.execute(
        f"""
        WITH s AS (
            INSERT INTO sessions ({_SESSION_FIELDS})
            SELECT {_SESSION_FIELDS} FROM jsonb_populate_record(NULL::sessions, $1) RETURNING id,
            status_changed
        ), k AS (
            INSERT INTO kernels ({_KERNEL_FIELDS})
            SELECT {_KERNEL_FIELDS} FROM jsonb_populate_recordset(NULL::kernels, $2)
        ), d AS (
            INSERT INTO session_dependencies (session_id, depends_on) SELECT s.id, unnest($3::uuid[]) FROM s
        ), h AS (
            INSERT INTO session_status_history (session_id, status, at) SELECT id, 'PENDING', status_changed
            FROM s
        ), i AS (
            INSERT INTO idempotency_keys
            SELECT * FROM jsonb_populate_record(NULL::idempotency_keys, $5::jsonb)
            WHERE $5::jsonb IS NOT NULL RETURNING key
        )
        {RECORD} SELECT n FROM s LEFT JOIN i ON true, jsonb_array_elements($4::jsonb) AS n
        """,  # noqa: S608
        session,
        kernels,
        list(depends_on),
        list(notices),
        idempotency,
    )


async def rename(connection: Connection | Database, session_id: UUID, name: str) -> bool:
    """False when the session is not running. Raises ``UniqueViolation`` when the name is taken."""
    answer = await connection.execute(
        "UPDATE sessions SET name = $2 WHERE id = $1 AND status = 'RUNNING'", session_id, name
    )
    return answer == "UPDATE 1"


async def add_queries(connection: Connection | Database, counts: Mapping[UUID, int]) -> None:
    """Count runs of code; 0 tells of any other use."""
    await connection.execute(
        """
        WITH locked AS (
            SELECT id FROM sessions WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE
        )
        UPDATE sessions SET num_queries = num_queries + c.number, last_used = now()
        FROM unnest($1::uuid[], $2::bigint[]) AS c(id, number) JOIN locked USING (id)
        WHERE sessions.id = c.id
        """,
        list(counts),
        list(counts.values()),
    )


async def count_active(connection: Connection | Database) -> int:
    """Sessions that have, or wait for, a kernel on some agent."""
    number: int = await connection.fetchval(
        f"SELECT count(*) FROM sessions s WHERE {_LIVE} AND s.status <> 'PENDING'"  # noqa: S608
    )
    return number


async def live_ids(connection: Connection | Database) -> list[UUID]:
    rows = await connection.fetch(f"SELECT s.id FROM sessions s WHERE {_LIVE}")  # noqa: S608
    return [row["id"] for row in rows]


def _prefix_pattern(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text) + "%"


def _found(row: Row) -> Found:
    stat = row["last_stat"]
    record = SessionRecord(
        session_id=row["id"],
        name=row["name"],
        type=SessionType(row["type"]),
        status=SessionStatus(row["status"]),
        status_info=row["status_info"],
        status_data=row["status_data"],
        status_changed=row["status_changed"],
        result=SessionResult(row["result"]),
        access_key=row["access_key"],
        user_id=row["user_id"],
        domain_name=row["domain_name"],
        project_id=row["project_id"],
        project_name=row["project_name"],
        scaling_group=row["scaling_group"],
        image=row["image"],
        architecture=row["architecture"],
        registry=row["registry"],
        tag=row["tag"],
        agent_id=row["agent_id"],
        container_id=row["container_id"],
        cluster_size=row["cluster_size"],
        cluster_mode=ClusterMode(row["cluster_mode"]),
        requested_slots=row["requested_slots"],
        occupied_slots=row["occupied_slots"],
        environ=row["environ"],
        created_at=row["created_at"],
        terminated_at=row["terminated_at"],
        num_queries=row["num_queries"],
        service_ports=tuple(row["service_ports"]),
        isolation=row["isolation"],
        last_stat=None if stat is None else msgspec.convert(stat, KernelStat),
    )
    return Found(record, row["address"], row["public_key"] or "")
