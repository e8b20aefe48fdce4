"""Agents: who they are, where they are reached, whether they are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backendai.bridges.postgres import Connection, Database
from backendai.core.session import SessionStatus
from backendai.wire.link import Hello


@dataclass(frozen=True, slots=True)
class AgentRecord:
    id: str
    status: str
    boot_id: str
    address: str
    public_key: str


@dataclass(frozen=True, slots=True)
class BookedKernel:
    """A kernel that, by the book, is on some agent."""

    id: UUID
    agent_id: str
    status: SessionStatus
    changed: datetime


async def upsert(connection: Connection, hello: Hello, now: datetime) -> None:
    """Take over what an agent says of itself; it is ALIVE from now on."""
    await connection.execute(
        """
        INSERT INTO agents (id, status, status_changed, region, scaling_group, available_slots, address,
                            public_key, boot_id, architecture, engine, version, isolation, first_contact,
                            cluster_endpoint)
        VALUES ($1, 'ALIVE', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $2, $13)
        ON CONFLICT (id) DO UPDATE SET
            status = 'ALIVE', lost_at = NULL,
            status_changed = CASE WHEN agents.status = 'ALIVE' THEN agents.status_changed ELSE $2 END,
            region = $3, scaling_group = $4, available_slots = $5, address = $6, public_key = $7, boot_id =
            $8, architecture = $9, engine = $10, version = $11, isolation = $12, cluster_endpoint = $13
        """,
        hello.agent_id,
        now,
        hello.region,
        hello.scaling_group,
        hello.slots,
        hello.address,
        hello.public_key,
        hello.boot_id,
        hello.architecture,
        hello.engine,
        hello.version,
        hello.isolation,
        hello.cluster_endpoint,
    )


async def every(connection: Connection | Database, *statuses: str) -> list[AgentRecord]:
    rows = await connection.fetch(
        "SELECT id, status, boot_id, address, public_key FROM agents WHERE status = ANY($1) ORDER BY id",
        list(statuses),
    )
    return [AgentRecord(**row) for row in rows]


async def set_status(connection: Connection, agent_id: str, status: str, now: datetime) -> bool:
    """Note that an agent left (``LOST``, ``RESTARTING``, ``TERMINATED``); False when that was known."""
    answer = await connection.execute(
        """
        UPDATE agents SET status = $2, status_changed = $3, lost_at = $3 WHERE id = $1 AND status <> $2
        """,
        agent_id,
        status,
        now,
    )
    return answer == "UPDATE 1"


async def set_schedulable(connection: Connection, ids: Sequence[str], schedulable: bool) -> list[str]:
    """Let agents get new kernels, or not; answers the ids that are unknown and changes nothing if there are
    any.
    """
    known = {
        row["id"] for row in await connection.fetch("SELECT id FROM agents WHERE id = ANY($1)", list(ids))
    }
    unknown = [id_ for id_ in ids if id_ not in known]
    if not unknown:
        await connection.execute(
            "UPDATE agents SET schedulable = $2 WHERE id = ANY($1)", list(ids), schedulable
        )
    return unknown


async def known(connection: Connection | Database, ids: Sequence[str]) -> set[str]:
    rows = await connection.fetch("SELECT id FROM agents WHERE id = ANY($1)", list(ids))
    return {row["id"] for row in rows}


async def booked_kernels(
    connection: Connection | Database, agent_id: str | None = None
) -> list[BookedKernel]:
    """Kernels that have a place and are not dead, on one agent or on all."""
    rows = await connection.fetch(
        """
        SELECT id, agent_id, status, status_changed FROM kernels
        WHERE status NOT IN ('TERMINATED', 'CANCELLED') AND agent_id IS NOT NULL
          AND ($1::text IS NULL OR agent_id = $1)
        """,
        agent_id,
    )
    return [
        BookedKernel(row["id"], row["agent_id"], SessionStatus(row["status"]), row["status_changed"])
        for row in rows
    ]


async def abandoned_kernels(connection: Connection | Database, before: datetime) -> list[UUID]:
    """Kernels of agents that have been away since ``before``, or have said that they end everything."""
    rows = await connection.fetch(
        """
        SELECT k.id FROM kernels k JOIN agents a ON a.id = k.agent_id
        WHERE k.status NOT IN ('TERMINATED', 'CANCELLED') AND a.status <> 'ALIVE'
          AND (a.lost_at < $1 OR a.status = 'TERMINATED')
        """,
        before,
    )
    return [row["id"] for row in rows]


async def count_alive(connection: Connection | Database) -> int:
    number: int = await connection.fetchval("SELECT count(*) FROM agents WHERE status = 'ALIVE'")
    return number
