"""What ended kernels have printed, compressed, until it is no longer kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backendai.bridges.postgres import Connection, Database


@dataclass(frozen=True, slots=True)
class KeptLog:
    """``content`` as it was given to :func:`keep`; ``truncated``: what was printed first is missing."""

    content: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class Unkept:
    """A kernel that ended a moment ago, whose agent still has its output and the book has not."""

    kernel_id: UUID
    address: str
    public_key: str


async def keep(
    connection: Connection | Database, kernel_id: UUID, content: bytes, truncated: bool, now: datetime
) -> None:
    """Replaces what was kept before; does nothing for a kernel that is not in the book."""
    await connection.execute(
        """
        INSERT INTO kernel_logs (kernel_id, content, truncated, kept_at)
        SELECT id, $2, $3, $4 FROM kernels WHERE id = $1
        ON CONFLICT (kernel_id) DO UPDATE
        SET content = EXCLUDED.content, truncated = EXCLUDED.truncated, kept_at = EXCLUDED.kept_at
        """,
        kernel_id,
        content,
        truncated,
        now,
    )


async def kept(connection: Connection | Database, kernel_id: UUID) -> KeptLog | None:
    row = await connection.fetchrow(
        "SELECT content, truncated FROM kernel_logs WHERE kernel_id = $1", kernel_id
    )
    return None if row is None else KeptLog(row["content"], row["truncated"])


async def unkept(connection: Connection | Database, since: datetime) -> list[Unkept]:
    """Kernels that ended after ``since`` without their output being kept, and whose agents live."""
    rows = await connection.fetch(
        """
        SELECT k.id, a.address, a.public_key FROM kernels k JOIN agents a ON a.id = k.agent_id
        WHERE k.terminated_at >= $1 AND k.started_at IS NOT NULL AND a.status = 'ALIVE'
          AND NOT EXISTS (SELECT FROM kernel_logs l WHERE l.kernel_id = k.id)
        """,
        since,
    )
    return [Unkept(row["id"], row["address"], row["public_key"]) for row in rows]


async def prune(connection: Connection | Database, before: datetime) -> int:
    """Forget what was kept before a time; answers how many logs that were."""
    answer = await connection.execute("DELETE FROM kernel_logs WHERE kept_at < $1", before)
    return int(answer.rpartition(" ")[2])
