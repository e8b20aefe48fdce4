"""Logs and replays over HTTP."""

from __future__ import annotations

from uuid import UUID

import pytest
from fakes import SESSION_ID, Fakes
from gateway_client import SigningClient


@pytest.mark.parametrize("root", ["/session", "/kernel", "/v4/kernel"])
async def test_logs(client: SigningClient, root: str) -> None:
    answer = await client("GET", f"{root}/my-sess/logs")
    assert answer.json() == {"result": {"logs": "log text"}}


async def test_logs_of_one_kernel(client: SigningClient) -> None:
    answer = await client("GET", f"/session/my-sess/logs?kernel_id={SESSION_ID}")
    assert answer.json() == {"result": {"logs": f"log text of {SESSION_ID}"}}
    assert (await client("GET", "/session/my-sess/logs?kernel_id=x")).status_code == 400


@pytest.mark.parametrize("name", ["taskId", "task_id", "session_name", "sessionName"])
async def test_log_of_a_task(client: SigningClient, name: str) -> None:
    answer = await client("GET", f"/session/_/logs?{name}={UUID(int=7)}")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "log text"
    head = await client("HEAD", f"/session/_/logs?{name}={UUID(int=7)}")
    assert (head.status_code, head.content) == (200, b"")


async def test_log_of_no_task(client: SigningClient) -> None:
    assert (await client("GET", "/session/_/logs")).status_code == 400
    assert (await client("GET", "/session/_/logs?taskId=missing")).status_code == 404


async def test_replay(client: SigningClient, fakes: Fakes) -> None:
    answer = await client("GET", "/session/my-sess/runs/r-1?after=5&wait=3")
    assert fakes.execution.replayed == ("my-sess", "r-1", 5, 3)
    assert answer.json()["result"] == {
        "runId": "r-1",
        "status": "continued",
        "exitCode": None,
        "options": None,
        "truncated": False,
        "items": [
            {"index": 5, "type": "stdout", "data": "two"},
            {"index": 6, "type": "media", "data": "data:,x", "mime": "image/png"},
        ],
        "first": 0,
        "next": 7,
    }
    assert (await client("GET", "/session/my-sess/runs/r-1?after=-1")).status_code == 400
    assert (await client("GET", "/session/my-sess/runs/r-1?wait=31")).status_code == 400
