"""What newer clients ask of a session, in the form they take apart."""

from __future__ import annotations

import pytest
from fakes import SESSION_ID, USER_ID
from gateway_client import SigningClient


async def test_explain(client: SigningClient) -> None:
    answer = await client("GET", "/session/my-sess/explain")
    assert answer.json()["summary"] == "It runs."
    assert (await client("GET", "/session/missing/explain")).status_code == 404


async def test_status_history(client: SigningClient) -> None:
    answer = (await client("GET", "/session/my-sess/status-history")).json()
    assert answer["result"] == {
        "pending": "2026-11-01T12:00:00Z",
        "preparing": "2026-11-01T12:00:01Z",
        "running": "2026-11-01T12:00:04Z",
        "restarting": "2026-11-01T12:00:03Z",
    }
    assert [each["status"] for each in answer["history"]][-2:] == ["RESTARTING", "RUNNING"]


async def test_dependency_graph(client: SigningClient) -> None:
    answer = (await client("GET", "/session/my-sess/dependency-graph")).json()
    (below,) = answer.pop("depends_on")
    assert answer == {
        "session_id": str(SESSION_ID),
        "session_name": "my-sess",
        "status": "KernelStatus.RUNNING",
        "status_changed": "2026-11-01 12:00:00.000005",
    }
    assert (below["session_name"], below["status"]) == ("first", "KernelStatus.TERMINATED")


@pytest.mark.parametrize("name", ["ids", "session_ids", "sessionIds"])
async def test_transit_status(client: SigningClient, name: str) -> None:
    body = {name: [str(SESSION_ID), str(USER_ID)]}
    answer = await client("POST", "/session/_/transit-status", body)
    assert answer.json() == {"session_status_map": {str(SESSION_ID): "RUNNING"}}


async def test_transit_status_of_nonsense(client: SigningClient) -> None:
    for body in ({}, {"ids": "x"}, {"ids": ["x"]}, {"ids": [str(SESSION_ID)] * 101}):
        assert (await client("POST", "/session/_/transit-status", body)).status_code == 400


async def test_what_there_is_nothing_to_tell_of(client: SigningClient) -> None:
    report = (await client("GET", "/session/my-sess/abusing-report")).json()
    assert report == {"kernel": str(SESSION_ID), "abuse_report": None}
    access = (await client("GET", "/session/my-sess/direct-access-info")).json()
    assert access["public_host"] is None


@pytest.mark.parametrize("path", ["commit", "imagify?image_name=x"])
async def test_sessions_cannot_become_images(client: SigningClient, path: str) -> None:
    state = (await client("GET", "/session/my-sess/commit")).json()
    assert state == {"kernel": str(SESSION_ID), "status": "unsupported"}
    answer = await client("POST", f"/session/my-sess/{path}")
    assert answer.status_code == 503
    assert "kernelspecs" in answer.json()["msg"]
