"""An installation put together from its pieces as docs/operations.md tells, under a real supervisord.

Two hosts, each a directory: the gateway's, and the agent's, who know each other by CURVE over TCP.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from live.api import Api
from live.environments import CannotInstall, environment
from live.service import Service, processes_of, wait_until

from backendai.embedded.tls import ensure_certificate

_ROOT = Path(__file__).parents[2]
#: Loopback too, but nobody connects from it: what was free there stays free.
_ADDRESS = "127.83.0.4"
_OWN = {name: value for name, value in os.environ.items() if not name.startswith("BACKEND_")}


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute("CREATE DATABASE wired"))
    yield urlsplit(postgres_url)._replace(path="/wired").geturl()
    asyncio.run(execute("DROP DATABASE wired WITH (FORCE)"))


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, for the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="bai-wired-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@dataclass(frozen=True)
class Supervisor:
    """A supervisord on our ``supervisord.conf``, and what its control program says."""

    process: subprocess.Popen[bytes]
    programs: Path
    conf: Path

    def control(self, *words: str) -> str:
        done = subprocess.run(
            [self.programs / "supervisorctl", "-c", self.conf, *words],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout

    def pid(self, program: str) -> int:
        answer = self.control("pid", program).strip()
        return int(answer) if answer.isdigit() else 0


def test_every_piece_as_the_documentation_has_it(empty_database: str, redis_server: str, place: Path) -> None:
    gateways, worker = place / "gateways", place / "worker"
    options = _write_configuration(gateways, empty_database, redis_server)
    refused = _backendai(gateways, "gateway", may_fail=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "run `backendai db upgrade`" in refused.stderr
    assert _backendai(gateways, "db", "upgrade").stdout.startswith("from nothing to ")
    assert "nothing to do" in _backendai(gateways, "db", "upgrade").stdout
    accounts = json.loads(_backendai(gateways, "db", "accounts").stdout)
    assert json.loads(_backendai(gateways, "db", "accounts").stdout) == accounts
    announced = {"endpoint": f"http://{_ADDRESS}:{options['http-port']}", **accounts}
    with _supervisord(place, {"BACKEND_CONFIG": str(gateways / "backendai.toml"), **_worker(worker)}) as boss:
        service = Service(boss.process, place, place / "supervisord.log", announced)
        with Api(service) as api:
            wait_until(lambda: _answers(api), within=60, what="the gateway answers")
            _enroll(gateways, worker, options)
            boss.control("restart", "agent")
            wait_until(lambda: _count(place, "agent", "agent.accepted"), within=60, what="the agent is known")
            api.create("lasting")
            assert api.run("lasting", "number = 41")[0] == ""
            _die_and_come_back(boss, "gateway", "gateway serves")
            assert api.run("lasting", "number += 1; print(number)")[0] == "42\n"
            _die_and_come_back(boss, "agent", "agent.accepted")
            assert api.run("lasting", "print(number)")[0] == "42\n"
            _another_gateway(gateways, service)
            api.call("DELETE", "/session/lasting")
        boss.process.send_signal(signal.SIGTERM)
        assert boss.process.wait(30) == 0
    wait_until(lambda: not processes_of(place), within=10, what="nothing is left")


def _write_configuration(directory: Path, database: str, redis: str) -> dict[str, str | int]:
    certificate = ensure_certificate(directory / "tls", now=datetime.now(UTC), names=(_ADDRESS,))
    options: dict[str, str | int] = {
        "database-url": database,
        "redis-url": redis,
        "service-ip": _ADDRESS,
        "http-port": _free_port(),
        "https-port": _free_port(),
        "ssl-cert": str(certificate.chain),
        "ssl-key": str(certificate.key),
        "manager-keys": str(directory / "manager.json"),
        "events-endpoint": f"tcp://{_ADDRESS}:{_free_port()}",
        "lease-ttl": "3s",
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items())
    (directory / "backendai.toml").write_text(text)
    return options


def _worker(directory: Path) -> dict[str, str]:
    return {
        "BACKEND_AGENT_ID": "i-worker",
        "BACKEND_AGENT_DIR": str(directory),
        "BACKEND_AGENT_PORT": "0",
        "BACKEND_WARM_POOL": "0",
    }


def _enroll(gateways: Path, worker: Path, options: dict[str, str | int]) -> None:
    token = _backendai(gateways, "agent", "token").stdout.strip()
    manager = f"https://{_ADDRESS}:{options['https-port']}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "backendai", "agent", "enroll", "--manager", manager),
            *("--token", token, "--ca-file", str(gateways / "tls" / "ca.pem")),
        ],
        env={**_OWN, **_worker(worker)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    keys = json.loads((worker / "keys.json").read_text())
    assert options["events-endpoint"] in keys.values()


def _die_and_come_back(boss: Supervisor, program: str, event: str) -> None:
    """Kill a program; it is back when its log tells ``event`` once more."""
    before, told = boss.pid(program), _count(boss.conf.parent, program, event)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: _count(boss.conf.parent, program, event) > told, within=60, what=f"{program} is back")
    assert boss.pid(program) not in (0, before)


def _count(place: Path, program: str, event: str) -> int:
    return (place / f"{program}.log").read_text().count(f'"event": "{event}"')


def _answers(api: Api) -> bool:
    try:
        return bool(api.http.get("/readyz").is_success)
    except httpx.TransportError:
        return False


def _another_gateway(directory: Path, service: Service) -> None:
    """One more process on the same database, by its module's name."""
    command = [sys.executable, "-m", "backendai.gateway.server", "--http-port", "0", "--log-format", "json"]
    environ = {**_OWN, "BACKEND_CONFIG": str(directory / "backendai.toml"), "BACKEND_HTTPS_PORT": "0"}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        port = _port_told(process.stdout)
        keys = {"endpoint": f"http://{_ADDRESS}:{port}"}
        with Api(Service(process, directory, directory, {**service.announced, **keys})) as api:
            assert api.run("lasting", "print(number)")[0] == "42\n"
        process.terminate()
        process.stdout.read()
    assert process.returncode == 0


def _port_told(log: IO[str]) -> int:
    for line in log:
        said = json.loads(line)
        if said["event"] == "gateway serves":
            return int(said["http_port"])
    raise AssertionError("it ended before it served")


@contextmanager
def _supervisord(place: Path, environ: dict[str, str]) -> Iterator[Supervisor]:
    try:
        home = environment(
            "supervisor", Path(sys.executable), Path(__file__).with_name("supervisor-requirements.txt")
        )
    except CannotInstall as error:
        pytest.skip(f"supervisor could not be installed: {error}")
    text = (_ROOT / "supervisord.conf").read_text()
    for directory in ("/run/backendai", "/var/log/backendai"):
        assert directory in text
        text = text.replace(directory, str(place))
    (place / ".venv").symlink_to(sys.prefix)
    conf = place / "supervisord.conf"
    conf.write_text(text)
    with (place / "supervisord.log").open("wb") as log:
        process = subprocess.Popen(
            [home / "bin" / "supervisord", "-c", conf], env={**_OWN, **environ}, stdout=log, stderr=log
        )
    try:
        yield Supervisor(process, home / "bin", conf)
    except BaseException as error:
        for name in ("supervisord.log", "gateway.log", "agent.log"):
            if (place / name).exists():
                error.add_note(f"-- {name}\n" + "\n".join((place / name).read_text().splitlines()[-30:]))
        raise
    finally:
        process.terminate()
        process.wait(30)


def _backendai(directory: Path, *words: str, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "backendai", *words],
        env={**_OWN, "BACKEND_CONFIG": str(directory / "backendai.toml")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert may_fail or done.returncode == 0, done.stderr
    return done


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_ADDRESS, 0))
        return int(free.getsockname()[1])
