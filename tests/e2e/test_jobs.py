"""Batch sessions, what outlives a session, and asking why, on a whole service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from live.api import Api
from live.service import Service, wait_until


@pytest.fixture
def api(service: Service) -> Iterator[Api]:
    with Api(service) as api:
        yield api


def new_name() -> str:
    return f"test-{uuid4().hex[:12]}"


def submit(api: Api, command: str, **more: object) -> str:
    """Enqueue a batch session; answers its id."""
    created = api.create(new_name(), type="batch", startupCommand=command, enqueueOnly=True, **more)
    return str(created["sessionId"])


def explained(api: Api, session: str) -> dict[str, Any]:
    answer: dict[str, Any] = api.call("GET", f"/session/{session}/explain")
    return answer


def ended(api: Api, session: str) -> dict[str, Any]:
    wait_until(lambda: "ending" in explained(api, session), within=30, what="the job is over")
    return explained(api, session)


def logs(api: Api, session: str) -> str:
    return str(api.call("GET", f"/session/{session}/logs")["result"]["logs"])


def test_jobs_that_wait_for_each_other(api: Api) -> None:
    first = submit(api, "echo first in $HOME; echo $GREETING >&2", config={"environ": {"GREETING": "hi"}})
    second = submit(api, "sleep 0.3; exit 7", dependencies=[first])
    third = submit(api, "echo never", dependencies=[second])

    assert ended(api, first)["ending"]["result"] == "success"
    failed = ended(api, second)
    assert (failed["ending"]["exitCode"], failed["ending"]["result"]) == (7, "failure")
    cancelled = ended(api, third)
    assert (cancelled["status"], cancelled["ending"]["reason"]) == ("CANCELLED", "dependency-failed")
    wait_until(lambda: "first in" in logs(api, first), within=15, what="the log is kept")
    assert sorted(logs(api, first).splitlines()) == ["first in /home/work", "hi"]
    plain = api.http.get(f"/session/_/logs?taskId={first}")
    assert plain.text == logs(api, first)


def test_a_job_that_takes_too_long(api: Api) -> None:
    job = submit(api, "echo begun; sleep 600", batch_timeout="1s")
    told = ended(api, job)
    assert (told["ending"]["reason"], told["ending"]["result"]) == ("task-timeout", "failure")
    assert logs(api, job) == "begun\n"


def test_the_log_of_a_session_outlives_it(api: Api) -> None:
    name = new_name()
    created = api.create(name)
    api.run(name, "print('one'); import sys; print('two', file=sys.stderr)")
    api.destroy(name)
    wait_until(lambda: api.status(name) == "GONE", within=20, what="the session is over")
    assert logs(api, created["sessionId"]) == "one\ntwo\n"


def test_a_run_can_be_read_again_by_whoever_comes_later(api: Api) -> None:
    name = new_name()
    api.create(name)
    try:
        begun = api.begin(name, "for i in range(5): print(i, flush=True)", "a-run")
        api.finish(name, begun)
        with Api.like(api) as other:
            whole = other.call("GET", f"/session/{name}/runs/a-run")["result"]
            assert "".join(item["data"] for item in whole["items"]) == "0\n1\n2\n3\n4\n"
            assert (whole["status"], whole["exitCode"]) == ("finished", 0)
            rest = other.call("GET", f"/session/{name}/runs/a-run?after={whole['next'] - 1}")["result"]
            assert rest["items"] == whole["items"][-1:]
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            api.call("GET", f"/session/{name}/runs/no-such-run")
    finally:
        api.destroy(name)


def test_a_create_that_timed_out_is_sent_again(api: Api) -> None:
    name = new_name()
    body = {"name": name, "image": "python", "config": {}, "reuseIfExists": False}
    key = {"Idempotency-Key": uuid4().hex}
    with pytest.raises(httpx.ReadTimeout):
        api.http.post("/session", json=body, headers=key, timeout=0.02)
    again = api.http.post("/session", json=body, headers=key)
    try:
        assert again.status_code == 201
        assert again.json()["status"] == "RUNNING"
        assert (
            api.http.post("/session", json=body, headers=key).json()["sessionId"]
            == (again.json()["sessionId"])
        )
        other = api.http.post("/session", json={**body, "tag": "x"}, headers=key)
        assert other.status_code == 422
    finally:
        api.destroy(name)


def test_events_since_an_earlier_one(api: Api) -> None:
    name = new_name()
    seen: list[tuple[int, str]] = []

    def read(after: str, until: str, ready: threading.Event) -> None:
        """Collect events of the session until one of that name."""
        target = f"/events/session?sessionName={name}&scope=session"
        with Api.like(api) as reader, reader.http.stream("GET", target + after) as stream:
            number = 0
            for line in stream.iter_lines():
                ready.set()
                if line.startswith("id: "):
                    number = int(line[4:])
                elif line.startswith("event: "):
                    seen.append((number, line[7:]))
                    if line[7:] == until:
                        return

    listening = threading.Event()
    reader = threading.Thread(target=read, args=("", "session_started", listening))
    reader.start()
    assert listening.wait(10)
    api.create(name)
    reader.join(20)
    assert [event for _, event in seen] == ["session_enqueued", "session_scheduled", "session_started"]
    api.destroy(name)
    wait_until(lambda: api.status(name) == "GONE", within=20, what="the session is over")
    middle = seen[1][0]
    seen.clear()
    read(f"&lastEventId={middle}", "session_terminated", threading.Event())
    assert [event for _, event in seen] == ["session_started", "session_terminated"]


def test_why_a_session_waits(api: Api) -> None:
    name = new_name()
    api.create(name, enqueueOnly=True, config={"resources": {"cpu": "4000", "mem": "1g"}})
    try:
        told = explained(api, name)
        assert told["pending"]["nearestFit"]["tooSmall"] is True
        assert told["summary"].startswith("It waits in vain")
    finally:
        api.destroy(name)
    assert explained(api, name)["ending"]["reason"] == "user-requested"
