"""What ended kernels have printed, compressed, until it is no longer kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backendai.bridges.postgres import Connection, Database


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLog:
    """``content`` is for who gives it to :func:`keep` to say; ``truncated``: its beginning is missing.

    ``complete``: the kernel had ended when this was copied, and its runs were too, unless ``runs_lost``.
    """

    content: bytes
    truncated: bool
    complete: bool = False
    runs_lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """A ``core.output.RunOutput``, its items compressed."""

    run_id: str
    exit_code: int | None
    truncated: bool
    first_index: int
    next_index: int
    content: bytes


async def keep(
    connection: Connection | Database,
    kernel_id: UUID,
    agent: tuple[str, str],
    log: KeptLog,
    now: datetime,
) -> bool:
    """Replaces what was kept before, unless that is complete and this is not.

    False for a kernel that is not in the book as one of the ``agent`` with that address and public key.
    """
    found = await connection.fetchval(
        """
        WITH owned AS (
            SELECT k.id FROM kernels k JOIN agents a ON a.id = k.agent_id
            WHERE k.id = $1 AND a.address = $2 AND a.public_key = $3
        ), kept AS (
            INSERT INTO kernel_logs (kernel_id, content, truncated, complete, runs_lost, kept_at)
            SELECT id, $4, $5, $6, $7, $8 FROM owned
            ON CONFLICT (kernel_id) DO UPDATE
            SET content = EXCLUDED.content, truncated = EXCLUDED.truncated, complete = EXCLUDED.complete,
                runs_lost = EXCLUDED.runs_lost, kept_at = EXCLUDED.kept_at
            WHERE EXCLUDED.complete OR NOT kernel_logs.complete
        )
        SELECT id FROM owned
        """,
        kernel_id,
        *agent,
        log.content,
        log.truncated,
        log.complete,
        log.runs_lost,
        now,
    )
    return found is not None


async def keep_runs(connection: Connection, kernel_id: UUID, runs: Sequence[KeptRun]) -> None:
    """All runs of a kernel whose log is kept; they go with it."""
    await connection.execute("DELETE FROM kernel_runs WHERE kernel_id = $1", kernel_id)
    await connection.execute(
        """
        INSERT INTO kernel_runs (kernel_id, run_id, exit_code, truncated, first_index, next_index, content)
        SELECT $1, r.* FROM
            unnest($2::text[], $3::int[], $4::bool[], $5::bigint[], $6::bigint[], $7::bytea[]) r
        ON CONFLICT DO NOTHING
        """,
        kernel_id,
        [run.run_id for run in runs],
        [run.exit_code for run in runs],
        [run.truncated for run in runs],
        [run.first_index for run in runs],
        [run.next_index for run in runs],
        [run.content for run in runs],
    )


async def kept(connection: Connection | Database, kernel_id: UUID) -> KeptLog | None:
    row = await connection.fetchrow(
        "SELECT content, truncated, complete, runs_lost FROM kernel_logs WHERE kernel_id = $1", kernel_id
    )
    return None if row is None else KeptLog(**dict(row))


async def is_complete(connection: Connection | Database, kernel_id: UUID) -> bool:
    """Whether there is nothing more to be had of what a kernel printed."""
    found: bool | None = await connection.fetchval(
        "SELECT complete FROM kernel_logs WHERE kernel_id = $1", kernel_id
    )
    return bool(found)


async def kept_run(connection: Connection | Database, kernel_id: UUID, run_id: str) -> KeptRun | None:
    row = await connection.fetchrow(
        """
        SELECT run_id, exit_code, truncated, first_index, next_index, content FROM kernel_runs
        WHERE kernel_id = $1 AND run_id = $2
        """,
        kernel_id,
        run_id,
    )
    return None if row is None else KeptRun(**dict(row))


async def knows_runs(connection: Connection | Database, kernel_id: UUID) -> bool:
    """Whether a run that is not kept is one that there never was."""
    found: bool | None = await connection.fetchval(
        "SELECT complete AND NOT runs_lost FROM kernel_logs WHERE kernel_id = $1", kernel_id
    )
    return bool(found)


async def prune(connection: Connection | Database, before: datetime) -> int:
    """Forget what was kept before a time; answers how many logs that were."""
    answer = await connection.execute("DELETE FROM kernel_logs WHERE kept_at < $1", before)
    return int(answer.rpartition(" ")[2])
