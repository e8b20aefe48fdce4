"""Background tasks: what they are and how far they have come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.notice import CHANNEL, TaskChanged, encode
from backendai.core.task import TaskState


@dataclass(frozen=True, slots=True)
class OwnedTask:
    user_id: UUID
    domain_name: str
    state: TaskState


async def insert(
    connection: Connection | Database,
    task_id: UUID,
    name: str,
    user_id: UUID,
    domain_name: str,
    now: datetime,
) -> None:
    await connection.execute(
        "INSERT INTO background_tasks (id, name, user_id, domain_name, created_at, updated_at)"
        " VALUES ($1, $2, $3, $4, $5, $5)",
        task_id,
        name,
        user_id,
        domain_name,
        now,
    )


async def write(connection: Connection | Database, state: TaskState, now: datetime) -> None:
    """Write how far a task has come, and tell. What has ended stays as it is."""
    await connection.execute(
        """
        WITH t AS (
            UPDATE background_tasks SET status = $2, current_progress = $3, total_progress = $4, message = $5,
                   errors = $6, updated_at = $7
            WHERE id = $1 AND status = 'running' RETURNING id
        )
        SELECT pg_notify($8, $9) FROM t
        """,
        state.id,
        state.status,
        state.current_progress,
        state.total_progress,
        state.message,
        list(state.errors),
        now,
        CHANNEL,
        encode(TaskChanged(task_id=state.id)),
    )


async def find(connection: Connection | Database, task_id: UUID) -> OwnedTask | None:
    row = await connection.fetchrow(
        "SELECT id, status, current_progress, total_progress, message, errors, user_id, domain_name"
        " FROM background_tasks WHERE id = $1",
        task_id,
    )
    return None if row is None else OwnedTask(row["user_id"], row["domain_name"], _state(row))


async def keep_alive(connection: Connection | Database, ids: Collection[UUID], now: datetime) -> None:
    """The process that runs these tasks lives."""
    await connection.execute(
        "UPDATE background_tasks SET updated_at = $2 WHERE id = ANY($1) AND status = 'running'",
        list(ids),
        now,
    )


async def orphans(connection: Connection | Database, before: datetime) -> list[TaskState]:
    """Tasks that run, but of which nothing was heard since."""
    rows = await connection.fetch(
        "SELECT id, status, current_progress, total_progress, message, errors FROM background_tasks"
        " WHERE status = 'running' AND updated_at < $1",
        before,
    )
    return [_state(row) for row in rows]


async def prune(connection: Connection | Database, before: datetime) -> None:
    """Forget tasks that ended before a time."""
    await connection.execute(
        "DELETE FROM background_tasks WHERE status <> 'running' AND updated_at < $1", before
    )


def _state(row: Row) -> TaskState:
    return msgspec.convert(dict(row), TaskState, strict=False)
