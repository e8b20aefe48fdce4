"""Whoever is killed when a session ends: what it printed can be read, or is said to be lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from live.api import Api
from live.service import Service, running_service, wait_until

from backendai.wire.runner import RunnerState

#: Prints, and ends its kernel when it is told to.
_LAST_WORDS = "import os, time\nprint({said})\nwhile not os.path.exists('go'): time.sleep(0.02)\nos._exit(5)"
#: Whether a runner that is left alone ends before it is found or after, makes no difference here.
_ORPHANS = ("--orphan-timeout", "3s")
#: A log that is cut, and takes a while to be fetched.
_MUCH = "*(f'{n:09}' for n in range(1_100_000)), sep='\\n'"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data_dir = tmp_path_factory.mktemp("kept") / "data"
    with running_service(data_dir, *_ORPHANS) as service:
        yield service


def kernels(service: Service) -> list[Path]:
    return list((service.data_dir / "agent" / "kernels").iterdir())


def state(directory: Path) -> RunnerState:
    return msgspec.msgpack.decode((directory / "state").read_bytes(), type=RunnerState)


def begin(api: Api, service: Service, name: str, said: str) -> tuple[str, Path]:
    """A session that has printed; its id, and the directory of its kernel."""
    session_id = str(api.create(name)["sessionId"])
    printed = api.begin(name, _LAST_WORDS.format(said=said), "the-run")
    while not printed["console"]:
        printed = api.go_on(name, "the-run")
    (directory,) = (path for path in kernels(service) if str(state(path).session_id) == session_id)
    return session_id, directory


def let_go(directory: Path) -> None:
    (directory / "home" / "go").touch()


def logs(api: Api, session: str) -> str:
    found: list[str] = []

    def ask() -> bool:
        try:
            answer = api.http.get(f"/session/{session}/logs")
        except httpx.TransportError:
            return False
        if answer.status_code == 200:
            found.append(answer.json()["result"]["logs"])
        return bool(found)

    wait_until(ask, within=45, what="the log is there")
    return found[0]


def replay(api: Api, session: str) -> dict[str, Any]:
    return dict(api.call("GET", f"/session/{session}/runs/the-run")["result"])


def test_the_agent_is_killed_before_it_hears_of_the_end(service: Service) -> None:
    with Api(service) as api:
        session, directory = begin(api, service, "first", "'last words'")
        agent = service.pid("agent")
        os.kill(agent, signal.SIGSTOP)
        let_go(directory)
        wait_until(lambda: state(directory).exit is not None, within=30, what="the kernel has ended")
        os.kill(agent, signal.SIGKILL)
        assert logs(api, session) == "last words\n"
        wait_until(lambda: api.status("first") == "GONE", within=45, what="the session is over")
        run = replay(api, session)
        assert (run["status"], run["exitCode"], run["first"]) == ("finished", 130, 0)
        assert run["items"][0]["data"].startswith("last words\n")


def test_the_gateway_is_killed_while_it_fetches(service: Service) -> None:
    with Api(service, timeout=20) as api:
        session, directory = begin(api, service, "second", _MUCH)
        wait_until(lambda: logs(api, session).endswith("\n001099999\n"), within=30, what="all is printed")
        let_go(directory)
        kept = service.data_dir / "agent" / "ended" / session
        wait_until(kept.exists, within=30, what="the output is with the agent")
        os.kill(service.pid("gateway"), signal.SIGKILL)
        text = logs(api, session)
        assert text.startswith("[the beginning is missing")
        assert text.endswith("\n001099999\n")
        run = replay(api, session)
        assert run["items"][0]["index"] == run["first"] > 0


def test_the_runner_is_killed(service: Service) -> None:
    with Api(service) as api:
        session, directory = begin(api, service, "third", "'last words'")
        os.kill(state(directory).runner_pid, signal.SIGKILL)
        wait_until(lambda: api.status("third") == "GONE", within=30, what="the session is over")
        assert logs(api, session) == "last words\n"
        refusal = api.http.get(f"/session/{session}/runs/the-run")
        assert refusal.status_code == 404
        assert refusal.json()["type"].endswith("/output-not-kept")
        assert refusal.json()["data"]["reason"] == "lost"


def test_everything_is_killed_or_stopped_and_started_again(service: Service) -> None:
    """The last one: it takes the service of the others away."""
    with Api(service) as api:
        orphan, directory = begin(api, service, "orphan", "'said before the kill'")
    runner = state(directory).runner_pid
    service.kill()
    wait_until(lambda: not Path(f"/proc/{runner}").exists(), within=30, what="nobody came back for it")
    with running_service(service.data_dir, *_ORPHANS) as second, Api(second) as api:
        assert logs(api, orphan) == "said before the kill\n"
        assert replay(api, orphan)["items"][0]["data"].startswith("said before the kill\n")
        stopped, _ = begin(api, second, "stopped", "'said before the stop'")
        assert second.stop() == 0
    with running_service(service.data_dir) as third, Api(third) as api:
        assert logs(api, stopped) == "said before the stop\n"
        assert replay(api, stopped)["items"][0]["data"].startswith("said before the stop\n")
