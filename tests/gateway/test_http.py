"""What holds for every URL: problems, versions, CORS, ids, limits, gates."""

from __future__ import annotations

import httpx
import pytest
import trio
from fakes import ADMIN, Fakes
from gateway_client import SigningClient

from backendai.gateway.app import Gateway
from backendai.gateway.edge import HttpOptions


def problem_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.json()) >= {"type", "title"}
    return response.status_code, response.json()["type"].removeprefix("https://api.backend.ai/probs/")


@pytest.mark.parametrize("path", ["/", "/v2", "/v4"])
async def test_hello(client: SigningClient, path: str) -> None:
    response = await client.http.get(path)
    assert response.json() == {"version": "v6.20220315", "manager": "22.03.3"}
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["server"] == "BackendAI"
    assert response.headers["x-ratelimit-limit"] == "1000"


async def test_unknown_path_and_method(client: SigningClient) -> None:
    response = await client.http.get("/nope?x=1")
    assert problem_of(response) == (404, "url-not-found")
    assert response.json()["data"] == "/nope"
    response = await client.http.delete("/auth")
    assert problem_of(response) == (405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD, POST"
    assert problem_of(await client.http.request("BREW", "/session")) == (405, "method-not-allowed")
    for path in ("/session/", "/v0/auth", "/v10/auth", "/auth//", "/v2/nothing"):
        assert problem_of(await client.http.get(path)) == (404, "url-not-found")
    response = await client.http.get("/stream/session/abcd/execute")
    assert problem_of(response) == (400, "generic-bad-request")


@pytest.mark.parametrize(
    "version", ["v0.20200101", "v10.20200101", "v6", "6.20220315", "v6.2022031x", "x" * 5000]
)
async def test_unsupported_version(client: SigningClient, version: str) -> None:
    response = await client("GET", "/auth?echo=x", version=version)
    assert problem_of(response) == (400, "generic-bad-request")
    assert response.json()["msg"] == "Unsupported API version."


async def test_bug_is_answered_without_internals(
    client: SigningClient, error_logs_expected: None, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client("GET", "/session/broken")
    assert problem_of(response) == (500, "internal-server-error")
    request_id = response.headers["x-request-id"]
    assert request_id in response.json()["msg"]
    assert "secret internals" not in response.text
    assert "secret internals" in caplog.text
    assert (await client("GET", "/session/abcd")).status_code == 200


class TestDebug:
    @pytest.fixture
    def options(self) -> HttpOptions:
        return HttpOptions(debug=True)

    async def test_bug_shows_its_traceback(self, client: SigningClient, error_logs_expected: None) -> None:
        assert "secret internals" in (await client("GET", "/session/broken")).json()["msg"]


async def test_request_id(client: SigningClient) -> None:
    first = (await client.http.get("/")).headers["x-request-id"]
    assert first != (await client.http.get("/")).headers["x-request-id"]
    given = await client.http.get("/", headers={"X-Request-Id": "my-id.1"})
    assert given.headers["x-request-id"] == "my-id.1"
    forged = await client.http.get("/", headers={"X-Request-Id": "no spaces allowed"})
    assert forged.headers["x-request-id"] != "no spaces allowed"


async def test_cors(client: SigningClient) -> None:
    response = await client.http.get("/", headers={"Origin": "https://console.example"})
    assert response.headers["access-control-allow-origin"] == "https://console.example"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in (await client.http.get("/")).headers
    preflight = await client.http.options(
        "/session",
        headers={
            "Origin": "https://console.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, x-backendai-date",
        },
    )
    assert (preflight.status_code, preflight.content) == (200, b"")
    assert preflight.headers["access-control-allow-methods"] == "POST"
    assert preflight.headers["access-control-allow-headers"] == "AUTHORIZATION, X-BACKENDAI-DATE"
    assert problem_of(await client.http.options("/session")) == (403, "generic-forbidden")
    assert problem_of(await client.http.options("/nope")) == (404, "url-not-found")


class TestOneOrigin:
    @pytest.fixture
    def options(self) -> HttpOptions:
        return HttpOptions(allow_origins=("https://good.example",))

    async def test_other_origins_get_nothing(self, client: SigningClient) -> None:
        for origin, admitted in (("https://good.example", True), ("https://bad.example", False)):
            response = await client.http.get("/", headers={"Origin": origin})
            assert ("access-control-allow-origin" in response.headers) is admitted


async def test_gate(client: SigningClient, fakes: Fakes) -> None:
    response = await client("PUT", "/manager/status", {"status": "FROZEN"}, principal=ADMIN)
    assert response.status_code == 204
    assert (await client.http.get("/manager/status")).json()["status"] == "frozen"
    # The gate comes before the guard: the request is not even signed.
    assert problem_of(await client.http.post("/session")) == (503, "server-frozen")
    assert (await client("GET", "/session/abcd")).status_code == 200
    response = await client("PUT", "/manager/status", {"status": "on fire"}, principal=ADMIN)
    assert problem_of(response) == (400, "invalid-api-params")


async def test_health_and_metrics(client: SigningClient, fakes: Fakes) -> None:
    assert (await client.http.get("/healthz")).json() == {"status": "ok"}
    assert (await client.http.get("/readyz")).json()["status"] == "ok"
    fakes.health.components["redis"] = "not reachable"
    assert (await client.http.get("/readyz")).json()["status"] == "degraded"
    fakes.health.components["database"] = "not reachable"
    assert (await client.http.get("/readyz")).status_code == 503
    await client.http.get("/nope/1")
    await client.http.get("/nope/2")
    await client.http.request("BREW", "/")
    text = (await client.http.get("/metrics")).text
    assert 'backendai_http_requests_total{method="GET",route="/readyz",status="503"} 1.0' in text
    assert 'backendai_http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in text
    assert 'method="other"' in text
    assert "BREW" not in text
    assert "nope" not in text


async def test_body_limits(client: SigningClient) -> None:
    assert problem_of(await client("POST", "/auth", b" " * 10_001)) == (413, "payload-too-large")
    assert (await client("POST", "/auth", {"echo": "x" * 9000})).status_code == 200

    async def chunks() -> object:
        for _ in range(11):
            yield b" " * 1000

    response = await client.http.post("/auth", content=chunks())  # type: ignore[arg-type]
    assert problem_of(response) == (413, "payload-too-large")


async def test_slow_body(port: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        with trio.fail_after(5):
            answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_unsupported_forms(client: SigningClient, headers: dict[str, str]) -> None:
    response = await client.http.post("/auth", content=b"echo: x", headers=headers)
    assert problem_of(response) == (415, "unsupported-media-type")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"echo": "\xff"}',
        b'{"a":' * 1500 + b"1" + b"}" * 1500,
        b"[" * 9000,
        b"NaN",
    ],
)
async def test_bad_json(client: SigningClient, body: bytes) -> None:
    response = await client("POST", "/auth", body)
    assert problem_of(response) == (400, "invalid-api-params")


async def test_bad_query(client: SigningClient) -> None:
    target = "/auth?" + "&".join(f"a{number}=1" for number in range(200))
    assert problem_of(await client("GET", target)) == (400, "invalid-api-params")
    assert problem_of(await client("GET", "/auth?echo=%FF")) == (400, "invalid-api-params")
    response = await client("GET", "/auth")
    assert response.json()["data"] == {"echo": "is required"}


async def test_wrong_types(client: SigningClient) -> None:
    response = await client("POST", "/auth", {"echo": 5})
    assert response.json()["data"] == {"echo": "value is not a string"}
    response = await client("POST", "/auth", {"echo": ""})
    assert response.json()["data"] == {"echo": "blank value is not allowed"}


async def test_long_names(client: SigningClient, app: Gateway) -> None:
    assert (await client("GET", "/session/" + "x" * 5000)).status_code == 200
    response = await client("POST", "/session", {"name": "x" * 65, "image": "python"})
    assert problem_of(response) == (400, "invalid-api-params")
    assert list(response.json()["data"]) == ["name"]


async def test_head(client: SigningClient) -> None:
    response = await client.http.head("/")
    assert (response.status_code, response.content) == (200, b"")
