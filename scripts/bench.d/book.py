"""What the bench needs in the service's database: room to work, agents that may speak, sessions to list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import asyncpg

from backendai.core.notice import CHANNEL, AccountsChanged, SettingsChanged, encode

#: Enough requests for a bench within the rolling window of the rate limit.
NO_LIMIT = 100_000_000
SLOTS = '{"cpu": "1", "mem": "1073741824"}'

T = TypeVar("T")


class Book:
    """The database of the service that runs on ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        # the server notes in the fifth line of this file where its socket is
        [about] = data_dir.rglob("postmaster.pid")
        self._socket = about.read_text().splitlines()[4]

    def _do(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def connected() -> T:
            connection = await asyncpg.connect(user="backendai", database="backendai", host=self._socket)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def lift_limits(self) -> None:
        """Measure the service, not the point at which it begins to refuse."""

        async def lift(connection: asyncpg.Connection) -> None:
            await connection.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 1000")
            await connection.execute("UPDATE keypairs SET rate_limit = $1", NO_LIMIT)
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, encode(AccountsChanged()))

        self._do(lift)

    @contextmanager
    def without_autovacuum(self) -> Iterator[None]:
        """Nobody tidies up during the body: its transactions would be counted with those of the service."""
        self._configure("ALTER SYSTEM SET autovacuum = off")
        try:
            yield
        finally:
            self._configure("ALTER SYSTEM RESET autovacuum")

    def _configure(self, statement: str) -> None:
        async def configure(connection: asyncpg.Connection) -> None:
            await connection.execute(statement)
            await connection.execute("SELECT pg_reload_conf()")

        self._do(configure)

    def admit_agents(self, keys: Mapping[str, str]) -> None:
        """Let these agents in: id to CURVE public key, as an enrolment would write it."""

        async def admit(connection: asyncpg.Connection) -> None:
            await connection.executemany(
                "INSERT INTO agent_keys (agent_id, public_key) VALUES ($1, $2)", list(keys.items())
            )
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, encode(SettingsChanged()))

        self._do(admit)

    def add_running_sessions(self, access_key: str, kernels: Mapping[UUID, str]) -> None:
        """Write running sessions of one kernel each: kernel id to the agent that has it."""

        async def add(connection: asyncpg.Connection) -> None:
            image, registry = await connection.fetchrow(
                "SELECT canonical, registry FROM images WHERE is_active ORDER BY canonical LIMIT 1"
            )
            for number, (kernel, agent_id) in enumerate(kernels.items()):
                await connection.execute(
                    """
                    INSERT INTO sessions (id, name, status, access_key, user_id, domain_name, project_id,
                        project_name, scaling_group, image, registry, requested_slots, occupied_slots)
                    SELECT $1, $2, 'RUNNING', access_key, users.id, projects.domain_name, projects.id,
                        projects.name, 'bench', $4, $5, $6, $6
                    FROM keypairs JOIN users ON users.id = user_id JOIN projects USING (domain_name)
                    WHERE access_key = $3
                    """,
                    *(kernel, f"bench-{number:03}", access_key, image, registry, SLOTS),
                )
                await connection.execute(
                    """
                    INSERT INTO kernels (id, session_id, image, registry, status, agent_id, requested_slots,
                        occupied_slots, started_at)
                    VALUES ($1, $1, $2, $3, 'RUNNING', $4, $5, $5, now())
                    """,
                    *(kernel, image, registry, agent_id, SLOTS),
                )

        self._do(add)

    def transactions(self) -> int:
        """How many transactions the database has seen; a statement outside of one counts as one."""

        async def count(connection: asyncpg.Connection) -> int:
            counted: int = await connection.fetchval(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            )
            return counted

        return self._do(count)
