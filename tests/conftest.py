"""Real servers for tests: one PostgreSQL and one Valkey per run, a fresh migrated database for each test."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog
from live.servers import running_servers
from live.service import Service, running_service

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import Database, open_database
from backendai.bridges.redis import RedisBridge, open_redis
from backendai.storage import migrate
from backendai.storage.seed import FirstAccounts, ensure_first_accounts

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _logging() -> None:
    """Send structlog's lines through the standard library, where pytest sees them."""
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@pytest.fixture
def error_logs_expected() -> None:
    """Ask for this fixture in a test that makes the product log an error on purpose."""


@pytest.fixture(autouse=True)
def _no_stray_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    if "error_logs_expected" in request.fixturenames:
        return
    records = caplog.get_records("setup") + caplog.get_records("call")
    stray = [r for r in records if r.levelno >= logging.ERROR]
    assert not stray, [f"{r.name}: {r.getMessage()}" for r in stray]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A whole `backendai up`, shared by all tests that leave it as they found it."""
    with running_service(tmp_path_factory.mktemp("service") / "data") as service:
        yield service


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """Addresses of the servers that live as long as the test run."""
    with running_servers() as addresses:
        yield addresses


@pytest.fixture(scope="session")
def postgres_url(servers: dict[str, str]) -> str:
    return servers["postgres"]


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> str:
    """Name of a database with all tables and the first accounts, from which each test's is copied."""
    asyncio.run(_statements(postgres_url, "CREATE DATABASE template_for_tests"))
    migrate.upgrade(_named(postgres_url, "template_for_tests"))
    return "template_for_tests"


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """Address of an empty database with all tables, the test's own."""
    name = f"test_{next(_numbers)}"
    asyncio.run(_statements(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    yield _named(postgres_url, name)
    asyncio.run(_statements(postgres_url, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def redis_server(servers: dict[str, str]) -> str:
    return servers["redis"]


@pytest.fixture
async def asyncio_loop() -> AsyncIterator[None]:
    async with open_asyncio_loop():
        yield


@pytest.fixture
async def database(asyncio_loop: None, database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
async def redis(asyncio_loop: None, redis_url: str) -> AsyncIterator[RedisBridge]:
    async with open_redis(redis_url, 4) as bridge:
        yield bridge


@pytest.fixture
async def redis_url(asyncio_loop: None, redis_server: str) -> str:
    """Address of a Valkey server that is empty when the test begins."""
    async with open_redis(redis_server, 0) as bridge:
        await bridge.call("FLUSHALL")
    return redis_server


@pytest.fixture
async def accounts(database: Database) -> FirstAccounts:
    async with database.transaction() as connection:
        return await ensure_first_accounts(connection)


def _named(url: str, database: str) -> str:
    """The address of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


async def _statements(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
