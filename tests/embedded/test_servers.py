"""The embedded servers as processes: they serve, stop, survive neglect, and never outlive us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import trio

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import open_database
from backendai.bridges.redis import open_redis
from backendai.embedded.child import ChildExited, ChildSpec, open_child
from backendai.embedded.places import open_runtime_directory
from backendai.embedded.postgres import EmbeddedPostgres, open_postgres
from backendai.embedded.valkey import open_valkey


@pytest.fixture
def place(tmp_path: Path) -> Path:
    # Closed to everybody else, as a home directory is: root's PostgreSQL must get through all the same.
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def runtime(place: Path) -> Iterator[Path]:
    with open_runtime_directory(place) as runtime:
        yield runtime


@asynccontextmanager
async def postgres_on(
    place: Path, runtime: Path, *, durable: bool = False
) -> AsyncIterator[EmbeddedPostgres]:
    async with open_postgres(place / "postgres", runtime, durable=durable) as postgres:
        yield postgres


async def run_sql(postgres: EmbeddedPostgres, sql: str) -> list[asyncpg.Record]:
    async with open_asyncio_loop(), open_database(postgres.url.reveal(), max_size=1) as database:
        return list(await database.fetch(sql))


async def until(condition: Callable[[], bool], within: float = 10) -> None:
    with trio.fail_after(within):
        while not condition():
            await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_postgres_keeps_its_data_and_listens_on_no_port(place: Path, runtime: Path) -> None:
    async with postgres_on(place, runtime) as postgres:
        await run_sql(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert (await run_sql(postgres, "SHOW listen_addresses"))[0][0] == ""
        assert (place / "postgres").stat().st_mode & 0o077 == 0
        first = postgres.child.pid
    assert not is_alive(first)
    assert not postgres.socket_directory.exists()
    async with postgres_on(place, runtime) as postgres:
        assert (await run_sql(postgres, "SELECT answer FROM kept"))[0][0] == 42


async def test_postgres_runs_as_nobody_elses_user_under_root(place: Path, runtime: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root only")
    async with postgres_on(place, runtime) as postgres:
        owner = Path(f"/proc/{postgres.child.pid}").stat().st_uid
        assert owner not in (0, 65534)
        assert (place / "postgres").stat().st_uid == owner


async def test_postgres_starts_after_it_was_killed(place: Path, runtime: Path) -> None:
    with pytest.RaisesGroup(ChildExited):
        async with (
            postgres_on(place, runtime, durable=True) as postgres,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(postgres.child.watch)
            await run_sql(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
            postgres.child.send_signal(signal.SIGKILL)
            await trio.sleep_forever()
    # As after a crash in a container: the number in the pid file belongs to a stranger now.
    pid_file = place / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    async with postgres_on(place, runtime) as postgres:
        assert (await run_sql(postgres, "SELECT answer FROM kept"))[0][0] == 42


async def test_an_interrupted_first_start_leaves_nothing_in_the_way(place: Path, runtime: Path) -> None:
    (place / "postgres.new" / "base").mkdir(parents=True)
    async with postgres_on(place, runtime) as postgres:
        assert await run_sql(postgres, "SELECT 1")


async def test_valkey_serves_sixteen_databases(runtime: Path) -> None:
    async with (
        open_valkey(runtime) as valkey,
        open_asyncio_loop(),
        open_redis(valkey.url.reveal(), 15) as redis,
    ):
        await redis.call("SET", "key", "value")
        assert await redis.call("GET", "key") == b"value"
        with pytest.raises(OSError, match="refused"), socket.socket() as probe:
            probe.connect(("127.0.0.1", 6379))
    assert not any(runtime.iterdir())


async def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Also when the parent gets no chance to do anything about it."""
    program = """
import trio
from backendai.embedded.child import ChildSpec, open_child
async def main():
    async with open_child(ChildSpec(name="x", command=["/bin/sleep", "600"])) as child:
        print(child.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as parent:
        assert parent.stdout is not None
        pid = int(await trio.to_thread.run_sync(parent.stdout.readline))
        assert is_alive(pid)
        parent.kill()
    await until(lambda: not is_alive(pid))


async def test_a_deaf_child_is_killed() -> None:
    spec = ChildSpec(
        name="deaf",
        command=["/bin/sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"],
        stop_within=0.3,
    )
    with trio.fail_after(10):
        async with open_child(spec) as child:
            await until(lambda: b"sh" in Path(f"/proc/{child.pid}/cmdline").read_bytes().split(b"\0")[0])
    assert child.poll() in (-signal.SIGKILL, -signal.SIGTERM)


async def test_the_end_of_a_child_tells_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = ChildSpec(name="Brief", command=["/bin/sh", "-c", "echo its last words; exit 3"], log=log)
    async with open_child(spec) as child:
        with pytest.raises(ChildExited, match=r"(?s)Brief exited with status 3; .*its last words"):
            await child.watch()
