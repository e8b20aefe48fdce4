"""When running sessions have to end, and by which rule: for the sweep and for those who ask."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.lifecycle import Reason

#: A use that was written down this recently is not written again.
_GRAIN = timedelta(seconds=10)

_RULES = f"""
    SELECT s.id, r.rule, r.at
    FROM sessions s JOIN kernels k ON k.id = s.id
    LEFT JOIN keypairs a ON a.access_key = s.access_key
    LEFT JOIN keypair_resource_policies p ON p.name = a.resource_policy
    CROSS JOIN LATERAL (VALUES
        ('{Reason.TASK_TIMEOUT}',
         k.started_at + CASE WHEN s.type = 'batch' THEN NULLIF(s.batch_timeout, 0) END * interval '1 second'),
        ('{Reason.SESSION_LIFETIME}',
         s.scheduled_at + NULLIF(p.max_session_lifetime, 0) * interval '1 second'),
        ('{Reason.IDLE_TIMEOUT}',
         GREATEST(k.started_at, s.last_used)
         + CASE WHEN s.type = 'interactive' THEN NULLIF(p.idle_timeout, 0) END * interval '1 second')
    ) AS r(rule, at)
    WHERE s.status = 'RUNNING' AND r.at IS NOT NULL
"""  # noqa: S608  constants of the program


@dataclass(frozen=True, slots=True)
class Expiry:
    """A rule that ends a session at a time, unless something moves that time."""

    session_id: UUID
    rule: str
    at: datetime


async def expired(connection: Connection | Database, now: datetime) -> list[Expiry]:
    """Sessions that have to end now, each with the rule that came first."""
    rows = await connection.fetch(
        f"SELECT DISTINCT ON (id) * FROM ({_RULES} AND r.at <= $1) x ORDER BY id, at",  # noqa: S608
        now,
    )
    return [_expiry(row) for row in rows]


async def expiries(connection: Connection | Database, session_id: UUID) -> list[Expiry]:
    """All rules that will end a session, the soonest first; none unless it runs."""
    rows = await connection.fetch(f"{_RULES} AND s.id = $1 ORDER BY r.at", session_id)
    return [_expiry(row) for row in rows]


async def note_use(connection: Connection | Database, kernel_ids: Collection[UUID], now: datetime) -> None:
    """The sessions of these kernels are in use now."""
    await connection.execute(
        """
        WITH unlocked AS (
            SELECT id FROM sessions WHERE id IN (SELECT session_id FROM kernels WHERE id = ANY($1))
              AND (last_used IS NULL OR last_used < $2::timestamptz - $3::interval)
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE sessions SET last_used = $2::timestamptz WHERE id IN (SELECT id FROM unlocked)
        """,
        list(kernel_ids),
        now,
        _GRAIN,
    )


def _expiry(row: Row) -> Expiry:
    return Expiry(row["id"], row["rule"], row["at"])
