"""The description of the API: complete, consistent, and refusing routes that nobody describes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from gateway_client import SigningClient

from backendai.gateway.app import Gateway
from backendai.gateway.call import Call
from backendai.gateway.openapi.document import describe, gaps, path_of
from backendai.gateway.openapi.operations import OPERATIONS
from backendai.gateway.reply import Reply
from backendai.gateway.route import Route


@pytest.fixture
def document(app: Gateway) -> dict[str, Any]:
    return describe(app.edge.router.routes, app.edge.router.sockets)


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_is_there(app: Gateway, document: dict[str, Any]) -> None:
    """By itself, or as another path of an operation that is: the older paths are not described twice."""
    named = {
        f"{key.partition(' ')[0]} {path}"
        for key, operation in operations(document)
        for path in (key.partition(" ")[2], *operation.get("x-other-paths", ()))
    }
    router = app.edge.router
    assert gaps(router.routes, router.sockets) == []
    wanted = {f"{route.method} {path_of(route.path)}" for route in router.routes}
    wanted |= {f"GET {path_of(socket.path)}" for socket in router.sockets}
    assert named == wanted
    others = named - {key for key, _ in operations(document)}
    assert all("/kernel" in key or "{major}" in key or key in _SPELLINGS for key in others), others


#: Paths without an age in them that are other spellings of a path that is described.
_SPELLINGS = {"GET /auth/test", "POST /auth/test", "POST /session/_/create", "POST /session/{ref}/imagify"}
#: Known, and never done.
_REFUSED = {"POST /session/{ref}/commit", "GET /stream/kernel/{ref}/events"}


def test_a_route_without_description_is_named(app: Gateway) -> None:
    async def handler(_call: Call) -> Reply:
        return Reply(204)

    router = app.edge.router
    stray = Route(method="PUT", path="/session/<ref>/nobody-described-me", handler=handler)
    assert gaps((*router.routes, stray), router.sockets) == [
        "PUT /session/{ref}/nobody-described-me: describe it in OPERATIONS of backendai/gateway/openapi"
    ]
    assert gaps(router.routes[1:], router.sockets)[-1].endswith("but there is no such route")
    assert len(gaps(router.routes, [replace(router.sockets[-1], handler=handler)])) > 1


def test_operations_say_all_there_is(document: dict[str, Any]) -> None:
    identities = set()
    for key, operation in operations(document):
        assert operation["operationId"] not in identities
        identities.add(operation["operationId"])
        responses = operation["responses"]
        assert {"400", "408", "413", "415", "500"} <= responses.keys(), key
        assert any(status < "300" for status in responses) or key in _REFUSED, key
        if operation["security"]:
            assert {"401", "429", "503"} <= responses.keys(), key
            assert "Retry-After" in responses["429"]["headers"]
        if "{ref}" in key:
            assert "404" in responses, key
        for status, response in responses.items():
            if status in ("101", "431"):
                continue
            assert "X-Request-ID" in response["headers"], (key, status)
            if status[0] == "2":
                assert "X-RateLimit-Remaining" in response["headers"], (key, status)
            elif int(status) not in OPERATIONS[key].replies:
                assert "application/problem+json" in response["content"], (key, status)
        arguments = {each["name"] for each in operation["parameters"] if each.get("in") == "path"}
        assert arguments == set(re.findall(r"\{(\w+)\}", key)), key
        if OPERATIONS[key].body is not None:
            assert operation["requestBody"]["content"], key


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    waiting: list[Any] = [document]
    found = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            if isinstance(reference := value.get("$ref"), str):
                target: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part]
                found += 1
        elif isinstance(value, list):
            waiting += value
    assert found > 100


async def test_over_http(client: SigningClient, document: dict[str, Any]) -> None:
    response = await client.http.get("/openapi.json")
    assert response.status_code == 200
    served = response.json()
    assert (served["openapi"], served["paths"].keys()) == ("3.1.0", document["paths"].keys())
    assert (await client.http.get("/openapi.json")).content == response.content
