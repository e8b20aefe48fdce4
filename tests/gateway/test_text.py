"""Text that databases and processes do not take: refused on every route, wherever it stands."""

from __future__ import annotations

import re

import httpx
import pytest
from fakes import ADMIN
from gateway_client import SigningClient, sign_headers

from backendai.core.errors import InvalidParameters
from backendai.gateway.app import Gateway
from backendai.gateway.parameters import read_object, read_parameters
from backendai.gateway.route import Route

#: These answer whatever comes along with the request.
_READ_NOTHING = {"/", "/v5", "/healthz", "/readyz", "/metrics", "/openapi.json"}
_VERSION = re.compile(r"<int\(.*?\):major>")


def url_of(rule: str, argument: str = "abcd") -> str:
    return re.sub(r"<\w+>", argument, _VERSION.sub("5", rule))


def routes_of(app: Gateway) -> tuple[Route, ...]:
    return app.edge.router.routes


@pytest.mark.parametrize("bad", ["%00", "ab%00cd", "%ED%A0%80", "%FF"])
async def test_paths(client: SigningClient, app: Gateway, bad: str) -> None:
    answers = {
        route.path: (await client(route.method, url_of(route.path, bad), principal=ADMIN)).status_code
        for route in routes_of(app)
        if re.search(r"<\w+>", route.path)
    }
    assert answers
    assert set(answers.values()) == {400}, answers


BAD_BODIES = (
    b'{"name": "a\\u0000b"}',
    b'{"owner_access_key": "\\u0000"}',
    b'{"a": {"b": [{"c": ["\\u0000"]}]}}',
    b'{"a": {"\\u0000": 1}}',
    b'{"a": "\\ud800"}',
    b'{"a": [{"\\udc00": 1}]}',
    b'{"a": "\\ud800\\ud800"}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\x00"}',
)


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_bodies(client: SigningClient, app: Gateway, body: bytes) -> None:
    statuses = {}
    for route in routes_of(app):
        target = url_of(route.path)
        if target not in _READ_NOTHING and not route.takes_body:
            statuses[route.method, target] = (
                await client(route.method, target, body, principal=ADMIN)
            ).status_code
    public = {each: status for each, status in statuses.items() if status == 200}
    assert all(method == "GET" and "/manager/" in path for method, path in public), public
    assert {status for each, status in statuses.items() if each not in public} == {400}, statuses


@pytest.mark.parametrize("query", ["a=%00", "%00=a", "owner_access_key=x%00", "a=%ED%A0%80", "a=%FF"])
async def test_queries(client: SigningClient, app: Gateway, query: str) -> None:
    statuses = {}
    for route in routes_of(app):
        target = url_of(route.path)
        if target not in _READ_NOTHING:
            statuses[route.method, target] = (
                await client(route.method, f"{target}?{query}", principal=ADMIN)
            ).status_code
    public = {each: status for each, status in statuses.items() if status == 200}
    assert all(method == "GET" and "/manager/" in path for method, path in public), public
    assert {status for each, status in statuses.items() if each not in public} == {400}, statuses


async def test_socket_paths(client: SigningClient) -> None:
    for path in ("/stream/session/%00/execute", "/stream/session/%FF/execute"):
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        response = await client.http.get(
            path, headers=sign_headers("GET", path, client.host, content_type=None) | upgrade
        )
        assert response.status_code == 400


def test_only_real_nul_counts() -> None:
    assert read_object(rb'{"a": "\\u0000"}', "body") == {"a": "\\u0000"}
    with pytest.raises(InvalidParameters):
        read_object('{"a": ["\\u0000"]}', "frame")
    with pytest.raises(InvalidParameters):
        read_parameters(b"", b"a=%00")


async def test_json_in_a_query(client: SigningClient) -> None:
    """The arguments of an app are JSON within a query string."""
    for query in ('arguments={"a":"%5Cu0000"}', 'envs={"A":["%5Cu0000"]}', "arguments=%5B%5D", "envs={"):
        path = f"/stream/session/abcd/tcpproxy?app=x&{query}"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        signed = sign_headers("GET", str(httpx.URL(path)), client.host, content_type=None)
        response = await client.http.get(path, headers=signed | upgrade)
        assert response.status_code == 400, query
        assert "JSON object" in response.text
