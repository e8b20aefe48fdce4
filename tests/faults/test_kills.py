"""Parts of the service killed without warning: sessions live on, and the output of their runs is complete."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live.api import Api
from live.service import Service, processes_of, running_service, start_service, wait_until

LINES = 60
#: Takes long enough that whatever is killed dies in its midst.
SLOW = f"import time\nfor n in range({LINES}):\n    print('line', n, flush=True)\n    time.sleep(0.1)"
#: Seconds for a killed part to be started again and for its sessions to be found.
RECOVERS_WITHIN = 45.0
#: Seconds that a request may hang because of it; its client sees nothing else of the agent's death.
AGENT_RECOVERS_WITHIN = 20.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path / "data") as service:
        yield service


def test_agent_killed_during_a_run(service: Service) -> None:
    with Api(service, timeout=AGENT_RECOVERS_WITHIN) as api:
        api.create("survivor")
        api.run("survivor", "kept = 'still known'")
        begun = api.begin("survivor", SLOW, "run-1")

        os.kill(service.pid("agent"), signal.SIGKILL)

        printed, errors, code = api.finish("survivor", begun)
        assert (printed.splitlines(), errors, code) == ([f"line {n}" for n in range(LINES)], "", 0)
        assert api.run("survivor", "print(kept)")[0] == "still known\n"


def test_gateway_killed_during_a_run(service: Service) -> None:
    with Api(service) as api:
        api.create("survivor")
        begun = api.begin("survivor", SLOW, "run-1")

        os.kill(service.pid("gateway"), signal.SIGKILL)

        assert finish_through_failures(api, "survivor", begun) == [f"line {n}" for n in range(LINES)]
        assert api.info("survivor")["status"] == "RUNNING"


def test_everything_killed_and_started_again_during_a_run(tmp_path: Path) -> None:
    first = start_service(tmp_path / "data")
    with Api(first) as api:
        api.create("survivor")
        api.run("survivor", "kept = 'still known'")
        begun = api.begin("survivor", SLOW, "run-1")

    first.kill()

    wait_until(lambda: not served(first), within=10, what="the gateway died with its parent")
    parts = {part: int(pid) for part, pid in first.announced["pids"].items()}
    wait_until(
        lambda: not any(map(running, parts.values())), within=10, what=f"dead with its parent: {parts}"
    )

    with running_service(tmp_path / "data") as second, Api(second) as api:
        assert second.keys() == first.keys()
        assert finish_through_failures(api, "survivor", begun) == [f"line {n}" for n in range(LINES)]
        assert api.run("survivor", "print(kept)")[0] == "still known\n"
        api.destroy("survivor")
    assert processes_of(tmp_path) == {}


def test_kernels_that_nobody_comes_back_for_end_themselves(tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", "--orphan-timeout", "3s")
    with Api(service) as api:
        api.create("orphan")
        api.begin("orphan", "while True: pass")

    service.kill()

    wait_until(lambda: processes_of(tmp_path) == {}, within=30, what="all processes gone")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def finish_through_failures(api: Api, session: str, result: dict[str, Any]) -> list[str]:
    """Read a run to its end, as a patient client would while parts of the service are away."""
    printed = ""
    while True:
        printed += "".join(data for kind, data in result["console"] if kind == "stdout")
        if result["status"] == "finished":
            assert result["exitCode"] == 0, result
            return printed.splitlines()
        answers: list[dict[str, Any]] = []

        def ask(run_id: str = result["runId"], answers: list[dict[str, Any]] = answers) -> bool:
            try:
                answers.append(api.go_on(session, run_id))
            except httpx.TransportError:
                return False
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    raise
                return False
            return True

        wait_until(ask, within=RECOVERS_WITHIN, what="the run answers again")
        result = answers[0]


def served(service: Service) -> bool:
    try:
        return httpx.get(service.endpoint + "/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
