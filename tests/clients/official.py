"""The official clients this project promises to serve: how to get one, and how to drive its command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from client_commands import Command, Said, plain, run_command
from live.environments import environment
from live.service import Service

HERE = Path(__file__).parent
#: Seconds that one command of a client may take on a loaded machine.
COMMAND_WITHIN = 60.0


@dataclass(frozen=True)
class Generation:
    """One release of `backend.ai-client`, the Python it was made for and the words of its command line."""

    version: str
    python: str
    #: Must pass wherever its Python is found; the others are skipped if they cannot be installed.
    required: bool = True
    #: What leads to create, info, logs, restart and terminate.
    create: tuple[str, ...] = ("session", "create")
    info: tuple[str, ...] = ("session", "info")
    logs: tuple[str, ...] = ("session", "logs")
    restart: tuple[str, ...] = ("session", "restart")
    terminate: tuple[str, ...] = ("session", "destroy")
    list: tuple[str, ...] = ("ps",)

    @property
    def requirements(self) -> Path:
        return HERE / f"requirements-{self.version}.txt"


#: No release has a command for ``interrupt``; that one goes through the library each of them also is.
GENERATIONS = (
    Generation(
        "20.3.10",
        "3.8",
        required=False,
        create=("start",),
        info=("admin", "session"),  # its own `info` cannot be called: it raises TypeError
        logs=("logs",),
        restart=("restart",),
        terminate=("terminate",),
    ),
    Generation("22.3.2", "3.10", required=False),
    Generation("23.9.10", "3.11"),
    Generation("25.5.2", "3.12"),
    Generation("26.9.6", "3.13"),
)


def find_interpreter(version: str) -> Path | None:
    """A working Python ``version`` ("3.12") that can make virtual environments, or None.

    Candidates are tried, not trusted: a shim of a version manager is on the path even when it refuses to run.
    """
    for candidate in _candidates(version):
        check = subprocess.run(
            [candidate, "-c", "import ensurepip, ssl, sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if check.returncode == 0 and check.stdout.strip() == version:
            return candidate
    return None


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    places = [Path(sys.base_prefix, "bin")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    releases = sorted(pyenv.glob(f"versions/{version}.*"), key=_release, reverse=True)
    places += [release / "bin" for release in releases]
    places += [Path(place) for place in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    places += [Path("/usr/local/bin"), Path("/usr/bin")]
    return (place / name for place in places if shutil.which(name, path=str(place)))


def _release(directory: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", directory.name))


def install(generation: Generation, python: Path) -> Path:
    """The `backend.ai` program of ``generation``. Raises :class:`live.environments.CannotInstall`."""
    name = f"client-{generation.version}"
    home = environment(name, python, generation.requirements, HERE / "build-constraints.txt")
    return home / "bin" / "backend.ai"


def client_environ(service: Service, home: Path) -> dict[str, str]:
    """The whole environment of a client that is the service's ordinary user and lives in ``home``."""
    access_key, secret_key = service.keys()
    return {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "BACKEND_ENDPOINT": service.endpoint,
        "BACKEND_ENDPOINT_TYPE": "api",
        "BACKEND_ACCESS_KEY": access_key,
        "BACKEND_SECRET_KEY": secret_key,
    }


@dataclass(frozen=True)
class Client:
    """One official client with a home directory and keys."""

    generation: Generation
    program: Path
    environ: Mapping[str, str]
    #: Where commands are run by :func:`preloaded`.
    place: Path

    async def __call__(
        self,
        *arguments: str,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Said:
        """Run one command to its end. Its standard input ends after ``stdin``."""
        with trio.fail_after(COMMAND_WITHIN):
            async with self.running(*arguments, stdin=stdin, environ=environ, cwd=cwd) as command:
                return await command.rest()

    @asynccontextmanager
    async def running(
        self,
        *arguments: str,
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> AsyncIterator[Command]:
        """As calling it, but while it runs; killed after the body if it still does."""
        order = {"argv": arguments, "environ": dict(environ or {}), "cwd": str(cwd or Path.cwd())}
        async with run_command(self.place, order, stdin) as command:
            yield command

    async def library(self, code: str) -> Said:
        """Run ``code`` with the client as a library; for what its command line cannot do."""
        with trio.fail_after(COMMAND_WITHIN):
            done = await trio.run_process(
                [str(self.program.with_name("python")), "-c", code],
                env=self.environ,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        return Said(done.returncode, plain(done.stdout), plain(done.stderr))

    async def open(self, *arguments: str) -> trio.Process:
        """Start a command whose output the caller reads; the caller ends it."""
        return await trio.lowlevel.open_process(
            [str(self.program), *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
