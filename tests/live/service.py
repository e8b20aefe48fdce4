"""A real `backendai up`, started as its users start it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds within which a service must be ready; a first start also initialises its databases.
START_WITHIN = 60.0
#: Seconds a stop may take (the promise is 5; the rest is patience with a loaded machine).
STOP_WITHIN = 15.0


class DidNotStart(Exception):
    """The service ended, or was not ready in time; the text holds the end of its log."""


@dataclass
class Service:
    """A running service. ``announced`` is the one JSON line of ``up --json``."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path
    announced: Mapping[str, Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return str(self.announced["endpoint"])

    @property
    def endpoint_tls(self) -> str:
        return str(self.announced["endpoint_tls"])

    def keys(self, *, admin: bool = False) -> tuple[str, str]:
        """Access and secret key of the ordinary user, or of the admin."""
        prefix = "admin_" if admin else ""
        return str(self.announced[prefix + "access_key"]), str(self.announced[prefix + "secret_key"])

    def pid(self, part: str) -> int:
        """The process id of ``gateway``, ``agent``, ... as announced."""
        return int(self.announced["pids"][part])

    def log_tail(self, lines: int = 40) -> str:
        """The end of what it said itself, and of the logs of gateway and agent."""
        logs = (self.log, *(self.data_dir / "logs" / f"{part}.log" for part in ("gateway", "agent")))
        tails = []
        for log in logs:
            if log.exists():
                said = log.read_text(errors="replace").splitlines()[-lines:]
                tails.append("\n".join([f"-- {log.name}", *said]))
        return "\n".join(tails)

    def stop(self) -> int:
        """Ask it to stop as a terminal would, and answer its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would: nothing gets a chance to tidy up."""
        self.process.kill()
        self.process.wait()


def start_service(
    data_dir: Path, *options: str, environ: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> Service:
    """Start `backendai up` on free ports and wait until it serves.

    ``through`` is a command that becomes the one it is given, such as ``setpriv``.

    Raises :class:`DidNotStart` when it ends first or takes longer than :data:`START_WITHIN`.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.with_name(data_dir.name + ".log")
    command = [*through, sys.executable, "-m", "backendai", "up", "--json", "--data-dir", str(data_dir)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*command, "--http-port", "0", "--https-port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environ or {})},
        )
    service = Service(process, data_dir, log)
    assert process.stdout is not None
    with process.stdout as stdout:
        try:
            line = _line_within(stdout.fileno(), START_WITHIN)
            service.announced = json.loads(line)
        except (TimeoutError, ValueError) as error:
            service.kill()
            raise DidNotStart(f"{error or 'no JSON line'}\n{service.log_tail()}") from error
    return service


@contextmanager
def running_service(
    data_dir: Path, *options: str, environ: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> Iterator[Service]:
    """As :func:`start_service`; stopped after the body, if the body has not done so.

    What leaves the body as an exception carries the ends of the logs.
    """
    service = start_service(data_dir, *options, environ=environ, through=through)
    try:
        yield service
    except BaseException as error:
        error.add_note(service.log_tail())
        raise
    finally:
        service.stop()


def _line_within(fd: int, seconds: float) -> bytes:
    """The first line, however it was cut: ``TimeoutError`` past ``seconds``, ``ValueError`` at the end."""
    deadline = time.monotonic() + seconds
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(deadline - time.monotonic()):
                raise TimeoutError(f"not ready after {seconds:.0f} s")
            chunk = os.read(fd, 65536)
            if not chunk:
                raise ValueError("ended before it was ready")
            data += chunk
    return data


def wait_until(condition: Callable[[], object], *, within: float, what: str) -> None:
    """Look at ``condition`` until it holds; ``AssertionError`` naming ``what`` if not ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {within} s still not: {what}")
        time.sleep(0.05)


def command_lines() -> dict[int, Sequence[str]]:
    """The command line of every process that can be seen, by process id."""
    found: dict[int, Sequence[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it ended between listing and reading
            found[int(entry.name)] = [word.decode(errors="replace") for word in words[:-1]]
    return found


def processes_of(data_dir: Path) -> dict[int, Sequence[str]]:
    """Every process that names ``data_dir`` in its command line, its environment or its working directory."""
    mark = str(data_dir)
    found: dict[int, Sequence[str]] = {}
    for pid, words in command_lines().items():
        try:
            environ = Path(f"/proc/{pid}/environ").read_text(errors="replace")
            directory = os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            environ = directory = ""
        if any(mark in text for text in (*words, environ, directory)):
            found[pid] = words
    return found
