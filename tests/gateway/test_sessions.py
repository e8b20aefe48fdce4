"""The session calls, in the shapes that each generation of clients reads."""

from __future__ import annotations

import pytest
import trio
from fakes import SESSION_ID, USER, Fakes
from gateway_client import SigningClient, sign_headers

from backendai.core.execution import ConsoleItem, RunMode, RunReply, RunStatus
from backendai.gateway.session_view import console_view, result_view

CREATE = {"name": "my-sess", "image": "python"}


async def test_create(client: SigningClient, fakes: Fakes) -> None:
    response = await client("POST", "/session", CREATE)
    assert response.status_code == 201
    assert response.json() == {
        "sessionId": str(SESSION_ID),
        "sessionName": "my-sess",
        "status": "RUNNING",
        "servicePorts": [],
        "created": True,
    }
    fakes.sessions.reused = True
    response = await client("POST", "/session/_/create", CREATE)
    assert response.status_code == 200
    assert response.json()["created"] is False
    assert response.json()["service_ports"] == response.json()["servicePorts"] == []


@pytest.mark.parametrize(
    "path", ["/v2/kernel/create", "/v3/kernel/", "/v4/kernel", "/kernel", "/kernel/create"]
)
async def test_create_as_old_clients_do(client: SigningClient, path: str) -> None:
    response = await client(
        "POST", path, {"lang": "python", "clientSessionToken": "token-1234"}, version="v4.20190615"
    )
    assert response.status_code == 201
    assert response.json()["kernelId"] == "token-1234"


async def test_create_is_abandoned_when_the_client_hangs_up(
    client: SigningClient, fakes: Fakes, port: int
) -> None:
    fakes.sessions.started = trio.Event()
    body = b'{"name": "my-sess", "image": "python"}'
    headers = sign_headers("POST", "/session", client.host, content_type="application/json", body=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        head += f"Host: {client.host}\r\nContent-Length: {len(body)}\r\n"
        await stream.send_all(f"POST /session HTTP/1.1\r\n{head}\r\n".encode() + body)
        with trio.fail_after(5):
            await fakes.sessions.started.wait()
    with trio.fail_after(5):
        while not fakes.sessions.abandoned:
            await trio.sleep(0.01)


async def test_info(client: SigningClient) -> None:
    answer = (await client("GET", "/session/my-sess")).json()
    assert answer["sessionName"] == "my-sess"
    assert answer["status"] == "RUNNING"
    assert answer["statusInfo"] == "None"
    assert answer["occupiedSlots"] == "{'cpu': '1', 'mem': '1073741824'}"
    assert answer["environ"] == "['A=b']"
    assert answer["creationTime"] == "2026-11-01 12:00:00.123456+00:00"
    assert answer["terminationTime"] is None
    assert answer["lastStat"]["mem"]["current"] == "2048"
    assert answer["memoryUsed"] == 2
    old = (
        await client(
            "GET", "/v2/kernel/my-sess", version="v2.20170315", content_type="application/octet-stream"
        )
    ).json()
    assert old["numQueriesExecuted"] == 3
    missing = await client("GET", "/session/missing")
    assert (missing.status_code, missing.json()["title"]) == (404, "No such session.")


async def test_match(client: SigningClient) -> None:
    answer = (await client("GET", "/session/_/match?id=my")).json()
    assert answer["matches"] == [{"id": str(SESSION_ID), "name": "my-sess", "status": "RUNNING"}]


async def test_destroy_restart_rename(client: SigningClient, fakes: Fakes) -> None:
    response = await client("DELETE", "/session/my-sess?forced=true&recursive=true")
    assert response.json() == {"stats": {"version": 2, "status": "terminated"}}
    assert fakes.sessions.calls[-1] == ("destroy", USER, "my-sess", True, True)
    assert (await client("DELETE", "/session/my-sess?forced=maybe")).status_code == 400
    assert (await client("PATCH", "/session/my-sess")).status_code == 204
    assert (await client("POST", "/session/my-sess/rename?name=new-name")).status_code == 204
    assert fakes.sessions.calls[-1] == ("rename", USER, "my-sess", "new-name")
    assert (await client("POST", "/session/my-sess/rename?name=x")).status_code == 400


async def test_apps_leave_out_what_is_not_known(client: SigningClient) -> None:
    answer = (await client("GET", "/stream/session/my-sess/apps", content_type=None)).json()
    assert answer == [{"name": "sshd", "protocol": "tcp", "ports": [2200]}]


async def test_execute(client: SigningClient, fakes: Fakes) -> None:
    response = await client("POST", "/session/my-sess", {"mode": "query", "code": "two", "runId": None})
    result = response.json()["result"]
    assert result["status"] == "finished"
    assert result["exitCode"] == 0
    assert result["files"] == []
    assert len(result["runId"]) == 32
    assert result["console"] == [
        ["stdout", "one two"],
        ["media", ["image/png", "data:,x"]],
        ["stderr", "oops"],
    ]


async def test_execute_goes_on(client: SigningClient, fakes: Fakes) -> None:
    body = {"mode": "query", "code": "input", "runId": "my-run"}
    result = (await client("POST", "/session/my-sess", body)).json()["result"]
    assert (result["status"], result["options"], result["runId"]) == (
        "waiting-input",
        {"is_password": False},
        "my-run",
    )
    for mode, code in (("input", "Ann"), ("continue", "")):
        await client("POST", "/session/my-sess", {"mode": mode, "code": code, "runId": "my-run"})
        assert fakes.execution.requests[-1].mode is RunMode(mode)
        assert fakes.execution.requests[-1].code == code
        assert fakes.execution.requests[-1].after is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"mode": "query", "code": "1"}, "runId is missing!"),
        ({"code": "1", "runId": None}, "mode is missing or empty!"),
        ({"mode": "dance", "runId": None}, "mode has an invalid value."),
        ({"mode": ["query"], "runId": None}, "mode has an invalid value."),
        ({"mode": "continue", "runId": None}, "continuation requires explicit run ID"),
        ({"mode": "input", "code": "x", "runId": None}, "continuation requires explicit run ID"),
        ({"mode": "query", "code": 5, "runId": None}, "Input validation error"),
        ({"mode": "query", "code": "", "runId": "x" * 65}, "Input validation error"),
        ({"mode": "batch", "code": "", "runId": None, "options": []}, "Input validation error"),
    ],
)
async def test_bad_execute(client: SigningClient, body: object, message: str) -> None:
    response = await client("POST", "/session/my-sess", body)
    assert (response.status_code, response.json()["msg"]) == (400, message)


async def test_execute_of_the_first_clients(client: SigningClient) -> None:
    response = await client("POST", "/v1/kernel/my-sess", {"code": "two"}, version="v1.20160915")
    result = response.json()["result"]
    assert "console" not in result
    assert (result["stdout"], result["stderr"]) == ("one two", "oops")
    assert result["media"] == [["image/png", "data:,x"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/session/my-sess/complete",
            {"code": "pri", "options": {"row": 0, "col": 3, "line": "pri", "post": ""}},
        ),
        ("/session/my-sess", {"mode": "complete", "code": "pri", "options": {"line": "pri"}, "runId": None}),
        ("/session/my-sess", {"code": "pri", "options": {"row": 0, "line": "pri"}}),
    ],
)
async def test_complete(client: SigningClient, path: str, body: object) -> None:
    answer = (await client("POST", path, body)).json()
    assert answer == {"result": {"status": "finished", "completions": ["print"]}}


async def test_interrupt_and_logs(client: SigningClient, fakes: Fakes) -> None:
    assert (await client("POST", "/session/my-sess/interrupt")).status_code == 204
    assert fakes.execution.interrupted.is_set()
    assert (await client("GET", "/session/my-sess/logs")).json() == {"result": {"logs": "log text"}}


def test_console_joins_neighbours_only() -> None:
    items = [
        ConsoleItem(0, "stdout", "a"),
        ConsoleItem(1, "stdout", "b"),
        ConsoleItem(2, "stderr", "c"),
        ConsoleItem(3, "html", "<b>"),
        ConsoleItem(4, "stdout", "d"),
    ]
    assert console_view(items) == [["stdout", "ab"], ["stderr", "c"], ["html", "<b>"], ["stdout", "d"]]
    assert console_view([]) == []


def test_truncation_is_told() -> None:
    reply = RunReply(run_id="r", status=RunStatus.FINISHED, truncated=True)
    assert result_view(reply, separate_streams=False)["truncated"] is True
