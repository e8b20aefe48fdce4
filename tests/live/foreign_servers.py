"""A PostgreSQL and a Valkey that belong to nobody here: on TCP, with passwords, as on another host."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import trio

from backendai.bridges.asyncio_loop import open_asyncio_loop, run_in_asyncio
from backendai.embedded import postgres, valkey
from backendai.embedded.child import ChildSpec, open_child
from backendai.embedded.lodging import find_lodging

#: Loopback too, but nobody connects from it: what was free there stays free.
_ADDRESS = "127.83.0.2"
_START_WITHIN = 30.0


@dataclass(frozen=True, slots=True)
class ForeignServers:
    """Addresses with a password that needs escaping in a URL; the role may do what an owner may, no more."""

    database_url: str
    redis_url: str
    #: A database with a table of something else, of the same role.
    other_database_url: str
    pids: tuple[int, ...]


@asynccontextmanager
async def open_foreign_servers() -> AsyncIterator[ForeignServers]:
    password = secrets.token_hex(4) + "@%2F/:"
    escaped = password.replace("%", "%25").replace("@", "%40").replace("/", "%2F").replace(":", "%3A")
    async with AsyncExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="bai-foreign-", dir="/tmp"))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o711)  # root's PostgreSQL is another user and passes through
        await _make_database(place, password)
        database, cache = _free_port(), _free_port()
        children = [
            await stack.enter_async_context(open_child(spec))
            for spec in (_postgres(place, database), _valkey(place, cache, password))
        ]
        for port in (database, cache):
            await _listens(port)
        login = f"postgresql://owner:{escaped}@{_ADDRESS}:{database}"
        yield ForeignServers(
            f"{login}/sessions",
            f"redis://:{escaped}@{_ADDRESS}:{cache}",
            f"{login}/bills",
            tuple(child.pid for child in children),
        )


async def _make_database(place: Path, password: str) -> None:
    async with open_asyncio_loop(), postgres.open_postgres(place / "cluster", place, durable=False) as server:
        connection = await run_in_asyncio(asyncpg.connect(server.url.reveal()))
        for statement in (
            f"CREATE ROLE owner LOGIN PASSWORD '{password}'",
            "CREATE DATABASE sessions OWNER owner",
            "CREATE DATABASE bills OWNER owner",
        ):
            await run_in_asyncio(connection.execute(statement))
        await run_in_asyncio(connection.close())
        bills = await run_in_asyncio(asyncpg.connect(postgres.url_for(server.socket_directory, "bills")))
        await run_in_asyncio(bills.execute("CREATE TABLE bills (id int)"))
        await run_in_asyncio(bills.close())
    (place / "cluster" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")


def _postgres(place: Path, port: int) -> ChildSpec:
    programs = postgres._programs()
    lodging = find_lodging(place / "cluster", programs=(programs / "postgres", programs.parent / "share"))
    settings = {
        "listen_addresses": _ADDRESS,
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "dynamic_shared_memory_type": "mmap",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return ChildSpec(
        name="a foreign PostgreSQL",
        command=[str(programs / "postgres"), "-D", str(place / "cluster"), *words],
        environ={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        log=place / "postgres.log",
        uid=lodging.uid,
        capability=lodging.capability,
        stop_signal=signal.SIGINT,
    )


def _valkey(place: Path, port: int, password: str) -> ChildSpec:
    options = {"bind": _ADDRESS, "port": port, "requirepass": password, "save": "", "dir": place}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return ChildSpec(
        name="a foreign Valkey",
        command=[str(valkey._program()), *words],
        environ={"PATH": "/usr/bin:/bin"},
        log=place / "valkey.log",
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_ADDRESS, 0))
        return int(free.getsockname()[1])


async def _listens(port: int) -> None:
    with trio.fail_after(_START_WITHIN):
        while True:
            try:
                await (await trio.open_tcp_stream(_ADDRESS, port)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return
