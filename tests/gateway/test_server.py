"""A whole gateway process, manager and databases included, inside a test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import trio
from gateway_client import SigningClient, sign_headers
from whole_gateway import people

from backendai.bridges.postgres import DatabaseUnavailable
from backendai.core.account import Secret
from backendai.gateway import server
from backendai.gateway.settings import GatewaySettings
from backendai.storage.seed import FirstAccounts


@pytest.fixture
async def client(
    settings: GatewaySettings, first_accounts: FirstAccounts, nursery: trio.Nursery
) -> AsyncIterator[SigningClient]:
    listening = await nursery.start(server.serve, settings)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.http_port}") as http:
        yield SigningClient(http)
    nursery.cancel_scope.cancel()


async def test_the_way_to_the_databases_and_back(
    client: SigningClient, first_accounts: FirstAccounts
) -> None:
    user, admin = people(first_accounts)
    assert (await client("GET", "/auth?echo=x", **user.signing)).json()["echo"] == "x"
    remaining = [
        int((await client("GET", "/auth?echo=x", **user.signing)).headers["x-ratelimit-remaining"])
        for _ in range(2)
    ]
    assert remaining[1] == remaining[0] - 1

    replayed = sign_headers("PATCH", "/session/nothing-there", client.host, **user.signing)
    first = await client.http.patch("/session/nothing-there", headers=replayed)
    assert (first.status_code, first.json()["title"]) == (404, "No such session.")
    assert (await client.http.patch("/session/nothing-there", headers=replayed)).status_code == 401

    announcement = {"enabled": True, "message": "hello"}
    response = await client("POST", "/manager/announcement", announcement, **user.signing)
    assert response.status_code == 401
    response = await client("POST", "/manager/announcement", announcement, **admin.signing)
    assert response.status_code == 204
    assert (await client.http.get("/manager/announcement")).json() == announcement

    unknown = await client("POST", "/session", {"name": "my-sess", "image": "no-such"}, **user.signing)
    assert (unknown.status_code, unknown.json()["title"]) == (404, "No such environment image.")
    assert (await client("GET", "/session/_/match?id=my", **user.signing)).json() == {"matches": []}
    ready = (await client.http.get("/readyz")).json()
    assert (ready["status"], ready["components"]["database"]) == ("degraded", "ok")


async def test_graphql(client: SigningClient, first_accounts: FirstAccounts) -> None:
    user, _ = people(first_accounts)
    body = {"query": "query { keypair { access_key is_active } }", "variables": {}}
    expected = {"keypair": {"access_key": first_accounts.access_key, "is_active": True}}
    headers = sign_headers("POST", "/admin/gql", client.host, content_type="application/json", **user.signing)
    for _ in range(2):  # a query changes nothing, so it may come twice
        response = await client.http.post("/admin/gql", json=body, headers=headers)
        assert response.json() == {"data": expected}
    assert (await client("POST", "/admin/graphql", body, **user.signing)).json() == expected


async def test_ready_line_and_port_in_use(settings: GatewaySettings, first_accounts: FirstAccounts) -> None:
    reading, writing = os.pipe()
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(server.serve, replace(settings, ready_fd=writing))
        with os.fdopen(reading) as pipe:
            ports = json.loads(pipe.readline())
            assert ports == {"http_port": listening.http_port, "https_port": None, "legacy_port": None}
        with pytest.raises(OSError, match="in use"):
            await server.serve(replace(settings, http_port=listening.http_port))
        nursery.cancel_scope.cancel()


async def test_no_database(settings: GatewaySettings) -> None:
    with socket.socket() as silent:  # bound, so that nobody else can have the port, but not listening
        silent.bind(("127.0.0.1", 0))
        nowhere = Secret(f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/nothing")
        manager = replace(settings.manager, database_url=nowhere)
        with pytest.RaisesGroup(DatabaseUnavailable, flatten_subgroups=True):
            await server.serve(replace(settings, manager=manager))
