"""The routes of the 1.x clients, played as those clients ask, on a real kernel (contract 02 §2.8, §15).

Of each generation the requests are those its client makes: path, version header, signature and body.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio
from live.service import Service
from trio_websocket import WebSocketConnection, wrap_client_stream

WITHIN = 60.0
BOUNDARY = "a1b2c3"
#: What information about a kernel has had in all of them.
INFO = {"lang", "age", "queryTimeout", "idleTimeout", "memoryLimit", "maxCpuCredit", "numQueriesExecuted"} | {
    "idle",
    "memoryUsed",
    "cpuCreditUsed",
}
STOPPABLE = """
import time
print('begun', flush=True)
try:
    while True: time.sleep(0.05)
except KeyboardInterrupt:
    print('stopped')
"""


@dataclass(frozen=True)
class Generation:
    name: str
    version: str
    create: str
    kernel: str
    stream: str
    #: Of the wish for a kernel, beside language and token.
    wish: dict[str, Any] = field(default_factory=dict)
    header: str = "X-BackendAI-Version"
    scheme: str = "BackendAI"

    @property
    def signs_bodies(self) -> bool:
        return self.version < "v4.20181215"


GENERATIONS = (
    Generation(
        "2017",
        "v1.20160915",
        "/v1/kernel/create",
        "/v1/kernel",
        "/v1/stream/kernel",
        {"resourceLimits": {"maxMem": 51240, "execTimeout": 5000}},
        header="X-Sorna-Version",
        scheme="Sorna",
    ),
    Generation(
        "1.0",
        "v2.20170315",
        "/v2/kernel/create",
        "/v2/kernel",
        "/v2/stream/kernel",
        {"limits": {"maxMem": 51240, "execTimeout": 5000}, "mounts": []},
    ),
    Generation(
        "1.3",
        "v3.20170615",
        "/v3/kernel/",
        "/v3/kernel",
        "/v3/stream/kernel",
        {"config": {"mounts": None, "environ": {"A": "b"}, "clusterSize": 1, "instanceMemory": 0.25}},
    ),
    Generation(
        "1.5",
        "v4.20181215",
        "/kernel/create",
        "/kernel",
        "/stream/kernel",
        {"config": {"mounts": [], "environ": {}, "clusterSize": None, "instanceMemory": None}},
    ),
    Generation(
        "19.09",
        "v4.20190615",
        "/kernel",
        "/kernel",
        "/stream/kernel",
        {"config": {"environ": {}, "resources": {"cpu": "1"}}, "group": "default", "domain": "default"},
    ),
)


class OldClient:
    """Signs as the client of a generation does; the product must not check itself."""

    def __init__(self, generation: Generation, service: Service, http: httpx.AsyncClient) -> None:
        self.generation = generation
        self.token = f"old-{uuid4().hex[:12]}"
        self._keys = service.keys()
        self._http = http
        self.host = http.base_url.netloc.decode()

    def signed(self, method: str, target: str, media_type: str, body: bytes) -> dict[str, str]:
        this, now = self.generation, datetime.now(UTC)
        hashed = body if this.signs_bodies and media_type != "multipart/form-data" else b""
        lines = [method, target, now.isoformat(), f"host:{self.host}", f"content-type:{media_type}"]
        lines += [f"{this.header.lower()}:{this.version}", hashlib.sha256(hashed).hexdigest()]
        key = self._keys[1].encode()
        for part in (now.strftime("%Y%m%d"), self.host):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, "\n".join(lines).encode(), "sha256").hex()
        credential = f"{self._keys[0]}:{signature}"
        return {
            "Date": now.isoformat(),
            this.header: this.version,
            "Authorization": f"{this.scheme} signMethod=HMAC-SHA256, credential={credential}",
        }

    async def __call__(self, method: str, target: str, body: object = None) -> httpx.Response:
        content = b"" if body is None else json.dumps(body).encode()
        media_type = "application/octet-stream" if body is None else "application/json"
        headers = {**self.signed(method, target, media_type, content), "Content-Type": media_type}
        return await self._http.request(method, target, content=content, headers=headers)

    async def kernel(self, method: str, what: str = "", body: object = None) -> httpx.Response:
        return await self(method, f"{self.generation.kernel}/{self.token}{what}", body)

    async def upload(self, name: str, content: bytes) -> httpx.Response:
        target = f"{self.generation.kernel}/{self.token}/upload"
        body = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="src"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode() + b"%b\r\n--%b--\r\n" % (content, BOUNDARY.encode())
        headers = self.signed("POST", target, "multipart/form-data", body)
        headers["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
        return await self._http.post(target, content=body, headers=headers)

    @asynccontextmanager
    async def stream(self, what: str) -> AsyncIterator[WebSocketConnection]:
        target = f"{self.generation.stream}/{self.token}/{what}"
        signed = self.signed("GET", target, "application/octet-stream", b"")
        extra = [(name.encode(), value.encode()) for name, value in signed.items()]
        host, port = self.host.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
            yield await wrap_client_stream(nursery, stream, self.host, target, extra_headers=extra)
            nursery.cancel_scope.cancel()

    async def execute(self, **body: object) -> dict[str, Any]:
        """One answer. Version 1 knows neither modes nor a console."""
        oldest = self.generation.version.startswith("v1.")
        if oldest:
            body.pop("mode")
        reply = await self.kernel("POST", "", body)
        assert reply.status_code == 200, reply.text
        result: dict[str, Any] = reply.json()["result"]
        assert {"status", "runId", "exitCode", "options", "files"} <= set(result)
        if oldest:
            assert "console" not in result
            assert (result["media"], result["html"]) == ([], [])
        else:
            assert "stdout" not in result
            for kind in ("stdout", "stderr"):
                result[kind] = "".join(data for what, data in result["console"] if what == kind)
        return result

    async def follow(self, result: dict[str, Any]) -> dict[str, Any]:
        printed = result["stdout"]
        while result["status"] == "continued":
            result = await self.execute(mode="continue", runId=result["runId"], code="")
            printed += result["stdout"]
        return {**result, "stdout": printed}


@pytest.fixture(params=GENERATIONS, ids=lambda generation: generation.name)
async def client(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[OldClient]:
    async with httpx.AsyncClient(base_url=service.endpoint, timeout=WITHIN) as http:
        client = OldClient(request.param, service, http)
        yield client
        await client.kernel("DELETE")


async def test_the_life_of_a_kernel(client: OldClient) -> None:
    with trio.fail_after(3 * WITHIN):
        await create(client)
        await run_code(client)
        await look_at_it(client)
        if not client.generation.version.startswith("v1."):  # these came later
            await give_input(client)
            await send_files(client)
        await use_a_terminal(client)
        if client.generation.version >= "v4.2019":
            await stream_a_run(client)
        await end(client)


async def create(client: OldClient) -> None:
    echo = await client("GET", "/v2/authorize", {"echo": "hi"})
    assert echo.json() == {"authorized": "yes", "echo": "hi"}
    wish = {"lang": "python", "clientSessionToken": client.token, **client.generation.wish}
    for status, new in ((201, True), (200, False)):
        reply = await client("POST", client.generation.create, wish)
        assert reply.status_code == status, reply.text
        told = reply.json()
        assert (told["kernelId"], told["created"], told["status"]) == (client.token, new, "RUNNING")


async def run_code(client: OldClient) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); kept = 1"
    result = await client.follow(await client.execute(mode="query", runId="0011223344556677", code=code))
    assert (result["runId"], result["exitCode"], result["status"]) == ("0011223344556677", 0, "finished")
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    result = await client.execute(mode="query", runId="8899aabbccddeeff", code=STOPPABLE)
    assert (result["status"], result["stdout"]) == ("continued", "begun\n")
    assert (await client.kernel("POST", "/interrupt")).status_code == 204
    result = await client.follow(result)
    assert (result["status"], result["stdout"]) == ("finished", "begun\nstopped\n")


async def look_at_it(client: OldClient) -> None:
    info = (await client.kernel("GET")).json()
    assert set(info) >= INFO
    assert info["numQueriesExecuted"] >= 0
    completed = await client.kernel(
        "POST", "/complete", {"code": "", "options": {"row": 0, "col": 3, "line": "imp", "post": ""}}
    )
    assert "import" in completed.json()["result"]["completions"]
    logs = await client.kernel("GET", "/logs")
    assert "stopped" in logs.json()["result"]["logs"]
    events = await client("GET", f"{client.generation.stream}/{client.token}/events")
    assert (events.status_code, events.headers["content-type"]) == (503, "application/problem+json")


async def give_input(client: OldClient) -> None:
    result = await client.execute(mode="query", runId="input", code="print('hi', input('who? '))")
    assert (result["status"], result["stdout"]) == ("waiting-input", "who? ")
    assert result["options"] == {"is_password": False}
    result = await client.follow(await client.execute(mode="input", runId="input", code="Ann"))
    assert (result["status"], result["stdout"]) == ("finished", "hi Ann\n")


async def send_files(client: OldClient) -> None:
    assert (await client.upload("sub/main.py", b"print('from a file')")).status_code == 204
    options = {"build": "", "buildLog": False, "exec": "python sub/main.py"}
    result = await client.execute(mode="batch", runId="files", code="", options=options)
    printed, steps = "", []
    while result["status"] != "finished":
        steps.append(result["status"])
        printed += result["stdout"]
        result = await client.execute(mode="continue", runId="files", code="")
    assert printed + result["stdout"] == "from a file\n"
    assert [step for step in steps if step != "continued"] == ["clean-finished", "build-finished"]
    listed = (await client.kernel("GET", "/files", {"path": "sub"})).json()
    assert [each["filename"] for each in json.loads(listed["files"])] == ["main.py"]
    archive = await client.kernel("GET", "/download", {"files": ["sub/main.py"]})
    assert archive.headers["content-type"].startswith("multipart/mixed")
    assert b"from a file" in archive.content


async def use_a_terminal(client: OldClient) -> None:
    async with client.stream("pty") as terminal:
        await terminal.send_message(json.dumps({"type": "resize", "rows": 31, "cols": 97}))
        typed = b64encode(b"stty size; echo sum-$((40+2))\n").decode()
        await terminal.send_message(json.dumps({"type": "stdin", "chars": typed}))
        seen = ""
        while "31 97" not in seen or "sum-42" not in seen:
            seen += b64decode(json.loads(await terminal.get_message())["data"]).decode(errors="replace")


async def stream_a_run(client: OldClient) -> None:
    async with client.stream("execute") as stream:
        await stream.send_message(json.dumps({"mode": "query", "code": "print(6 * 7)", "options": {}}))
        frames = [json.loads(await stream.get_message())]
        while frames[-1]["status"] != "finished":
            frames.append(json.loads(await stream.get_message()))
    assert [pair for frame in frames for pair in frame["console"]] == [["stdout", "42\n"]]


async def end(client: OldClient) -> None:
    assert (await client.kernel("PATCH")).status_code == 204
    fresh = await client.execute(mode="query", runId="fresh", code="print('kept' in globals())")
    assert (await client.follow(fresh))["stdout"] == "False\n"
    ended = await client.kernel("DELETE")
    assert (ended.status_code, set(ended.json())) == (200, {"stats"})
    while (gone := await client.kernel("GET")).status_code != 404:
        assert gone.status_code == 200, gone.text
    assert {"type", "title"} <= set(gone.json())
