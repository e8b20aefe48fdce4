"""The queue of callbacks. Entries are made by the trigger that numbers events."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from backendai.bridges.postgres import Connection, Database
from backendai.core.account import Secret


@dataclass(frozen=True, slots=True)
class Callback:
    """``id`` is the event's number. Without ``secret_key`` the key pair of the session is gone."""

    id: int
    session_id: UUID
    event: str
    url: str
    when: datetime
    attempts: int
    access_key: str
    secret_key: Secret | None = field(repr=False)


async def due(
    connection: Connection | Database, now: datetime, busy: Collection[UUID], limit: int
) -> list[Callback]:
    """The oldest callback of each session that is not ``busy``, if its time has come."""
    rows = await connection.fetch(
        """
        SELECT c.id, c.session_id, c.event, c.url, c.created_at, c.attempts, s.access_key, k.secret_key
        FROM (
            SELECT DISTINCT ON (session_id) * FROM callbacks
            WHERE next_attempt IS NOT NULL AND session_id <> ALL($2::uuid[]) ORDER BY session_id, id
        ) c
        JOIN sessions s ON s.id = c.session_id LEFT JOIN keypairs k ON k.access_key = s.access_key
        WHERE c.next_attempt <= $1 ORDER BY c.next_attempt LIMIT $3
        """,
        now,
        list(busy),
        limit,
    )
    return [
        Callback(
            row["id"],
            row["session_id"],
            row["event"],
            row["url"],
            row["created_at"],
            row["attempts"],
            row["access_key"],
            None if row["secret_key"] is None else Secret(row["secret_key"]),
        )
        for row in rows
    ]


async def delivered(connection: Connection | Database, number: int) -> None:
    await connection.execute("DELETE FROM callbacks WHERE id = $1", number)


async def failed(
    connection: Connection | Database, number: int, why: str, next_attempt: datetime | None
) -> None:
    """Without a next attempt it is given up, and only kept to be looked at."""
    await connection.execute(
        "UPDATE callbacks SET attempts = attempts + 1, last_error = $2, next_attempt = $3 WHERE id = $1",
        number,
        why,
        next_attempt,
    )


async def of_session(connection: Connection | Database, session_id: UUID) -> list[dict[str, object]]:
    """What could not be delivered (yet), and when it is tried again; null for what was given up."""
    rows = await connection.fetch(
        """
        SELECT event, attempts, last_error AS "lastError", next_attempt AS "nextAttempt"
        FROM callbacks WHERE session_id = $1 ORDER BY id
        """,
        session_id,
    )
    return [dict(row) for row in rows]


async def prune(connection: Connection | Database, before: datetime) -> None:
    """Forget what was given up before a time."""
    await connection.execute("DELETE FROM callbacks WHERE next_attempt IS NULL AND created_at < $1", before)
