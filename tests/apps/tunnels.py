"""What the official clients do with apps: local ports that lead into a session, SSH and SCP through them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from live.service import wait_until

#: Seconds that one command may take on a loaded machine, and between two looks at a client that may hang.
_PATIENCE = 120.0
_LOOK_AGAIN = 1.0


@dataclass(frozen=True)
class AppClient:
    """The command line of one official client."""

    program: Path
    environ: Mapping[str, str]

    @contextmanager
    def app(self, session: str, name: str, *options: str) -> Iterator[Tunnel]:
        """While the client's ``app`` command runs."""
        with reserved_port() as port:
            said = Path(self.environ["HOME"], f"app-{port}.log")
            command = [str(self.program), "app", session, name, "-b", f"127.0.0.1:{port}", *options]
            with said.open("wb") as log:
                process = subprocess.Popen(
                    command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
                tunnel = Tunnel(port, said)
                with process:
                    try:
                        wait_until(
                            lambda: f"127.0.0.1:{port}" in tunnel.said() or process.poll() is not None,
                            within=_PATIENCE,
                            what="a local port",
                        )
                        assert process.poll() is None, tunnel.said()
                        yield tunnel
                    finally:
                        process.terminate()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        return subprocess.run(
            [str(self.program), *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )

    def over_ssh(
        self, place: Path, *arguments: str, terminal: int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """One ``ssh`` or ``scp`` command to its end, in the directory ``place``, at a terminal if given one.

        The client ends its tunnel with Ctrl-C and waits for it. While a connection winds down the tunnel
        may lose that signal, and both would wait for ever; so the signal is repeated, as a user would.
        """
        mark = place / "ended"
        mark.unlink(missing_ok=True)
        environ = {**self.environ, "PATH": f"{_marking(place, mark)}:{self.environ['PATH']}"}
        stdin = subprocess.DEVNULL if terminal is None else terminal
        outputs = [subprocess.PIPE if terminal is None else terminal] * 2
        with (
            reserved_port() as port,
            subprocess.Popen(
                [str(self.program), arguments[0], "-p", str(port), *arguments[1:]],
                cwd=place,
                env=environ,
                stdin=stdin,
                stdout=outputs[0],
                stderr=outputs[1],
                start_new_session=True,
            ) as process,
        ):
            try:
                deadline = time.monotonic() + _PATIENCE
                while time.monotonic() < deadline:
                    try:
                        out, err = process.communicate(timeout=_LOOK_AGAIN)
                        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
                    except subprocess.TimeoutExpired:
                        if mark.exists():
                            _end_tunnels(process.pid)
                raise AssertionError(f"after {_PATIENCE:g} s still running: {process.args!r}")
            finally:
                _kill_all(process.pid)


@dataclass(frozen=True)
class Tunnel:
    """A local port that leads to an app."""

    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """What the client has said."""
        return self.log.read_text(errors="replace")


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else is given: only who asks for it by its number may listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _marking(place: Path, mark: Path) -> Path:
    """A directory with `ssh` and `scp` that leave ``mark`` when they have ended."""
    directory = place / "bin"
    directory.mkdir(exist_ok=True)
    for name in ("ssh", "scp"):
        script = directory / name
        script.write_text(f'#!/bin/sh\nPATH={os.defpath} {name} "$@"; code=$?; : >"{mark}"; exit $code\n')
        script.chmod(0o755)
    return directory


def _kill_all(client: int) -> None:
    with suppress(psutil.Error):
        for process in (*psutil.Process(client).children(recursive=True), psutil.Process(client)):
            process.kill()


def _end_tunnels(client: int) -> None:
    for child in psutil.Process(client).children():
        try:
            if "app" in child.cmdline():
                child.send_signal(signal.SIGINT)
        except psutil.Error:
            continue  # it has ended meanwhile
