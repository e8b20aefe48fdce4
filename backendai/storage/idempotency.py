"""Which session a create request led to, for the case that it is sent again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from backendai.bridges.postgres import Connection, Database

#: How long a key means the same request.
RETENTION = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A request with the same key."""

    fingerprint: str
    session_id: UUID


async def find(
    connection: Connection | Database, access_key: str, key: str, since: datetime
) -> Earlier | None:
    """The request since then that had this key; an older one is forgotten. Keys are entered with sessions."""
    row = await connection.fetchrow(
        """
        WITH expired AS (
            DELETE FROM idempotency_keys WHERE access_key = $1 AND key = $2 AND created_at <= $3
        )
        SELECT fingerprint, session_id FROM idempotency_keys
        WHERE access_key = $1 AND key = $2 AND created_at > $3
        """,
        access_key,
        key,
        since,
    )
    return None if row is None else Earlier(row["fingerprint"], row["session_id"])


async def prune(connection: Connection | Database, now: datetime) -> None:
    """Forget keys past their time."""
    await connection.execute("DELETE FROM idempotency_keys WHERE created_at <= $1", now - RETENTION)
