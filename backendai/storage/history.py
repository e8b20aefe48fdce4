"""What a session went through, and what is known of its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from backendai.bridges.postgres import Connection, Database
from backendai.core.chronicle import Node, Passage


async def passages(connection: Connection | Database, session_id: UUID) -> list[Passage]:
    rows = await connection.fetch(
        "SELECT status, at, status_info FROM session_status_history WHERE session_id = $1 ORDER BY id",
        session_id,
    )
    return [Passage(row["status"], row["at"], row["status_info"]) for row in rows]


async def kernel_facts(connection: Connection | Database, session_id: UUID) -> list[dict[str, Any]]:
    """What explains the state of each kernel, the main one first."""
    rows = await connection.fetch(
        """
        SELECT id, cluster_hostname, status, status_info, status_data, exit_code, deadline, agent_id
        FROM kernels WHERE session_id = $1 ORDER BY cluster_role = 'main' DESC, cluster_idx
        """,
        session_id,
    )
    return [dict(row) for row in rows]


async def dependencies(connection: Connection | Database, session_id: UUID) -> dict[UUID, Node]:
    """The session and all it depends on, directly or not, by id."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE d(id) AS (
            SELECT $1::uuid UNION
            SELECT x.depends_on FROM session_dependencies x JOIN d ON x.session_id = d.id
        )
        SELECT s.id, s.name, s.status, s.status_changed,
               ARRAY(SELECT depends_on FROM session_dependencies WHERE session_id = s.id) AS depends_on
        FROM sessions s JOIN d USING (id)
        """,
        session_id,
    )
    return {
        row["id"]: Node(
            row["id"], row["name"], row["status"], row["status_changed"], tuple(row["depends_on"])
        )
        for row in rows
    }


async def statuses(
    connection: Connection | Database, access_key: str | None, session_ids: Sequence[UUID]
) -> dict[UUID, str]:
    """Statuses of those of the sessions that there are, and that belong to the key unless that is None."""
    rows = await connection.fetch(
        "SELECT id, status FROM sessions WHERE ($1::text IS NULL OR access_key = $1) AND id = ANY($2)",
        access_key,
        list(session_ids),
    )
    return {row["id"]: row["status"] for row in rows}
