"""What a user may do through the REST interface of a whole service, and what comes of bad programs."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from live.api import Api
from live.service import Service, wait_until


@pytest.fixture
def api(service: Service) -> Iterator[Api]:
    with Api(service) as api:
        yield api


@pytest.fixture
def session(api: Api) -> Iterator[str]:
    """The name of a running session, ended after the test if it still lives."""
    name = f"test-{uuid4().hex[:12]}"
    api.create(name)
    yield name
    end(api, name)


def end(api: Api, name: str) -> None:
    if api.status(name) != "GONE":
        api.destroy(name)


def test_create_is_answered_when_the_session_runs(api: Api) -> None:
    name = f"test-{uuid4().hex[:12]}"
    created = api.create(name)
    try:
        assert created["status"] == "RUNNING"
        assert created["created"] is True
        assert UUID(created["sessionId"])
        again = api.create(name)
        assert again["created"] is False
        assert again["sessionId"] == created["sessionId"]
        assert api.status(name) == "RUNNING"
        assert api.status(created["sessionId"][:13]) == "RUNNING"
    finally:
        end(api, name)
    wait_until(lambda: api.status(name) == "GONE", within=20, what="ended session no longer found")


def test_state_is_kept_between_runs_and_lost_at_restart(api: Api, session: str) -> None:
    api.run(session, "import os; kept = 41; open('note', 'w').write('on disk')")
    assert api.run(session, "print(kept + 1)") == ("42\n", "", 0)

    api.call("PATCH", f"/session/{session}")

    out, _, _ = api.run(session, "print('kept' in globals(), open('note').read())")
    assert out == "False on disk\n"


def test_input_is_passed_on(api: Api, session: str) -> None:
    result = api.begin(session, "print('got', input('line? '))")
    printed = ""
    while result["status"] != "waiting-input":
        printed += "".join(data for _, data in result["console"])
        result = api.go_on(session, result["runId"])
    printed += "".join(data for _, data in result["console"])
    assert "line? " in printed

    result = api.go_on(session, result["runId"], "something with 한글")

    assert api.finish(session, result) == ("got something with 한글\n", "", 0)


def test_pictures_arrive_as_media(api: Api, session: str) -> None:
    picture = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    code = f"import base64, IPython.display as d\nd.Image(base64.b64decode({picture!r}), format='png')"
    result = api.begin(session, code)
    items = list(result["console"])
    while result["status"] != "finished":
        result = api.go_on(session, result["runId"])
        items += result["console"]

    media = [data for kind, data in items if kind == "media"]
    assert [mime for mime, _ in media] == ["image/png"], items
    assert media[0][1].startswith("data:image/png;base64,")


def test_completion(api: Api, session: str) -> None:
    api.run(session, "import os")
    line = "os.getl"
    body = {"code": line, "options": {"row": 0, "col": len(line), "line": line, "post": ""}}
    result = api.call("POST", f"/session/{session}/complete", body)["result"]
    assert result["status"] == "finished"
    assert any(match.endswith("getlogin") for match in result["completions"]), result


def test_interrupt_ends_a_run_but_not_the_session(api: Api, session: str) -> None:
    begun = api.begin(session, "print('begun', flush=True)\nwhile True: pass")
    while not begun["console"]:
        begun = api.go_on(session, begun["runId"])

    api.call("POST", f"/session/{session}/interrupt")

    _, errors, code = api.finish(session, begun)
    assert "KeyboardInterrupt" in errors
    assert code == 1
    assert api.run(session, "print('alive')")[0] == "alive\n"


def test_ten_megabytes_of_output_arrive_whole(api: Api, session: str) -> None:
    out, _, code = api.run(session, "line = 'x' * 1023\nfor _ in range(10240): print(line)")
    assert code == 0
    assert len(out) == 10 << 20
    assert set(out) == {"x", "\n"}


@pytest.mark.parametrize(
    "code", ["import os; os._exit(7)", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
)
def test_a_kernel_that_dies_ends_its_run_and_its_session(api: Api, session: str, code: str) -> None:
    _, _, exit_code = api.run(session, code)

    assert exit_code, "a run whose kernel died did not succeed"
    wait_until(lambda: api.status(session) == "GONE", within=30, what="session of the dead kernel has ended")


def test_a_fork_bomb_stays_inside_its_session(api: Api, session: str) -> None:
    bomb = """
import os, sys
children = 0
try:
    while children < 5000:
        if os.fork() == 0:
            import time
            time.sleep(3600)
        children += 1
except OSError as error:
    print('stopped by', type(error).__name__)
"""
    out, _, _ = api.run(session, bomb)
    assert "stopped by BlockingIOError" in out

    other = f"test-{uuid4().hex[:12]}"
    api.create(other)
    assert api.run(other, "print('unharmed')")[0] == "unharmed\n"
    end(api, other)


def test_kernels_see_neither_the_host_nor_each_other(api: Api, session: str, service: Service) -> None:
    code = f"""
import os, socket
print(os.path.exists({str(service.data_dir)!r}), os.getpid() < 100, sorted(os.listdir('/home')))
print([name for name in os.environ if 'SECRET' in name or 'PASSWORD' in name])
try:
    socket.create_connection(('127.0.0.1', {service.endpoint.rsplit(":", 1)[1]}), 2)
    print('reached the gateway')
except OSError as error:
    print('unreachable')
"""
    assert api.run(session, code)[0] == "False True ['work']\n[]\nunreachable\n"


def test_events_tell_the_life_of_a_session(api: Api) -> None:
    name = f"test-{uuid4().hex[:12]}"
    seen: list[str] = []
    with api.http.stream("GET", f"/events/session?sessionName={name}&scope=session") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        with Api.like(api) as other:
            other.create(name)
            end(other, name)
        for line in stream.iter_lines():
            if line.startswith("event:"):
                seen.append(line.removeprefix("event:").strip())
            if "session_terminated" in seen:
                break
    expected = ["session_enqueued", "session_scheduled", "session_started", "session_terminated"]
    assert [event for event in seen if event in expected] == expected


def test_sessions_of_others_are_not_found(api: Api, session: str, service: Service) -> None:
    with Api(service, admin=True) as admin:
        assert admin.status(session) == "GONE"
        key, _ = service.keys()
        assert admin.call("GET", f"/session/{session}?owner_access_key={key}")["status"] == "RUNNING"
