"""A whole gateway process, manager and databases included, inside a test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import httpx
import pytest
import trio
from fakes import USER
from gateway_client import SigningClient, sign_headers

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import DatabaseUnavailable, open_database
from backendai.core.account import Principal, Secret
from backendai.core.ids import AccessKey
from backendai.gateway import server
from backendai.gateway.settings import GatewaySettings
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts, ensure_first_accounts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(database_url: str, redis_url: str) -> GatewaySettings:
    return GatewaySettings(
        manager=ManagerSettings(
            database_url=Secret(database_url),
            redis_url=Secret(redis_url),
            process_id="gateway-under-test",
            facts_endpoint=f"tcp://127.0.0.1:{free_port()}",
        ),
        http_port=0,
        grace=0.2,
    )


@pytest.fixture
async def first_accounts(database_url: str) -> FirstAccounts:
    async with (
        open_asyncio_loop(),
        open_database(database_url) as database,
        database.transaction() as connection,
    ):
        return await ensure_first_accounts(connection)


@dataclass(frozen=True, slots=True)
class Person:
    principal: Principal
    secret: str

    @property
    def signing(self) -> dict[str, object]:
        return {"principal": self.principal, "secret": self.secret}


def people(accounts: FirstAccounts) -> tuple[Person, Person]:
    return (
        Person(replace(USER, access_key=AccessKey(accounts.access_key)), accounts.secret_key.reveal()),
        Person(
            replace(USER, access_key=AccessKey(accounts.admin_access_key)), accounts.admin_secret_key.reveal()
        ),
    )


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
            assert json.loads(pipe.readline()) == {"http_port": listening.http_port, "https_port": None}
        with pytest.raises(OSError, match="in use"):
            await server.serve(replace(settings, http_port=listening.http_port))
        nursery.cancel_scope.cancel()


async def test_no_database(settings: GatewaySettings) -> None:
    nowhere = Secret(f"postgresql://postgres@127.0.0.1:{free_port()}/nothing")
    with pytest.RaisesGroup(DatabaseUnavailable, flatten_subgroups=True):
        await server.serve(replace(settings, manager=replace(settings.manager, database_url=nowhere)))
