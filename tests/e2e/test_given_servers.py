"""`backendai up` on a PostgreSQL and a Redis that somebody else runs."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from live.api import Api
from live.foreign_servers import ForeignServers, open_foreign_servers
from live.service import Service, start_service

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.redis import open_redis


@pytest.fixture
async def foreign() -> AsyncIterator[ForeignServers]:
    async with open_foreign_servers() as servers:
        yield servers


async def test_the_first_start_and_the_second(foreign: ForeignServers, tmp_path: Path) -> None:
    environ = {"BACKEND_DATABASE_URL": foreign.database_url, "BACKEND_REDIS_URL": foreign.redis_url}
    async with open_asyncio_loop(), open_redis(foreign.redis_url, 0) as strangers:
        await strangers.call("SET", "of-another-program", "kept")
        async with _service(tmp_path / "data", environ) as service:
            assert set(service.announced["pids"]) == {"up", "gateway", "agent"}
            keys = service.keys(), service.keys(admin=True)
            await trio.to_thread.run_sync(_use, service)
            for number in (1, 2, 3):  # statistics, presence, ids of sessions
                await _something_in(foreign.redis_url, number)
        async with _service(tmp_path / "data", environ) as service:
            assert (service.keys(), service.keys(admin=True)) == keys
            with Api(service) as api:
                (match,) = api.call("GET", "/session/_/match?id=first")["matches"]
                assert match["status"] == "TERMINATED"
        assert await strangers.call("KEYS", "*") == [b"of-another-program"]
    assert not (tmp_path / "data" / "postgres").exists()
    for pid in foreign.pids:
        assert Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def _service(place: Path, environ: dict[str, str]) -> AsyncIterator[Service]:
    start = partial(start_service, place, "--warm-pool", "0", environ=environ)
    service = await trio.to_thread.run_sync(start)
    try:
        yield service
    except BaseException as error:
        error.add_note(service.log_tail())
        raise
    finally:
        service.stop()


def _use(service: Service) -> None:
    with Api(service) as api:
        api.create("first")
        assert api.run("first", "print(6 * 7)")[0] == "42\n"


async def _something_in(url: str, number: int) -> None:
    """Wait until there is, which takes a heartbeat."""
    async with open_redis(url, number) as redis:
        with trio.fail_after(30):
            while not await redis.call("DBSIZE"):
                await trio.sleep(0.05)


async def test_what_cannot_be_used_is_one_line_and_nothing_starts(
    foreign: ForeignServers, tmp_path: Path
) -> None:
    database, redis = foreign.database_url, foreign.redis_url
    nobody = urlsplit(database)._replace(netloc="owner:x@127.83.0.3:1").geturl()
    for urls, status, line in (
        ((_with_password(database, "wrong"), redis), 1, "--database-url: password authentication failed"),
        ((foreign.other_database_url, redis), 1, "--database-url: database bills holds tables of something"),
        ((nobody, redis), 1, "--database-url: [Errno 111] Connect call failed ('127.83.0.3', 1)"),
        ((database, _with_password(redis, "wrong")), 1, "--redis-url: invalid username-password pair"),
        ((database, "redis://127.83.0.3:1"), 1, "--redis-url: Error 111 connecting to 127.83.0.3:1"),
        ((database, redis + "/7"), 2, "BACKEND_REDIS_URL: expected an address without a database"),
    ):
        environ = dict(zip(("BACKEND_DATABASE_URL", "BACKEND_REDIS_URL"), urls, strict=True))
        command = [sys.executable, "-m", "backendai", "up", "--data-dir", str(tmp_path / "data")]
        ended = await trio.run_process(
            [*command, "--http-port", "0", "--https-port", "0"],
            env=environ,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        assert ended.returncode == status, ended.stderr
        (told,) = ended.stderr.decode().splitlines()
        assert told.startswith(f"backendai: {line}"), told
        assert "@" not in told
    assert not (tmp_path / "data" / "postgres").exists()


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login.partition(':')[0]}:{password}@{address}").geturl()
