"""Files and terminals of sessions of a whole service, over HTTP and WebSocket."""

from __future__ import annotations

import io
import json
import tarfile
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import trio
from live.api import Api, signed_headers
from live.service import Service
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream


@pytest.fixture
def api(service: Service) -> Iterator[Api]:
    with Api(service) as api:
        yield api


@pytest.fixture
def session(api: Api) -> Iterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    api.create(name)
    yield name
    assert api.http.delete(f"/session/{name}").status_code in (200, 403, 404)  # 403: it is about to end


def upload(api: Api, session: str, **files: bytes) -> httpx.Response:
    parts = [("src", (name, content, "application/octet-stream")) for name, content in files.items()]
    return api.http.post(f"/session/{session}/upload", files=parts)


def archives(reply: httpx.Response) -> dict[str, bytes]:
    reply.raise_for_status()
    head = b"Content-Type: " + reply.headers["content-type"].encode() + b"\r\n\r\n"
    found = {}
    for part in BytesParser(policy=HTTP).parsebytes(head + reply.content).iter_parts():
        found.update(unpack(part.get_payload(decode=True)))  # type: ignore[arg-type]
    return found


def unpack(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}  # type: ignore[union-attr]


def test_files_go_in_and_out(api: Api, session: str) -> None:
    big = bytes(range(256)) * (20 << 12)
    assert upload(api, session, **{"a.txt": b"one", "sub/dir/big": big}).status_code == 204
    code = "import os; print(open('a.txt').read(), os.path.getsize('sub/dir/big'))"
    assert api.run(session, code) == (f"one {len(big)}\n", "", 0)
    listed = api.call("GET", f"/session/{session}/files")
    assert "a.txt" in {each["filename"] for each in json.loads(listed["files"])}
    reply = api.http.request("GET", f"/session/{session}/download", json={"files": ["a.txt", "sub/dir"]})
    assert archives(reply) == {"a.txt": b"one", "dir/big": big} or archives(reply) == {
        "a.txt": b"one",
        "sub/dir/big": big,
    }
    reply = api.http.get(f"/session/{session}/download_single", params={"file": "a.txt"})
    assert unpack(reply.content) == {"a.txt": b"one"}


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "leads-out", "sub/../../../etc/passwd"])
def test_nothing_outside_the_home_directory(api: Api, session: str, path: str) -> None:
    api.run(session, "import os; os.symlink('/etc/passwd', 'leads-out'); os.mkdir('sub')")
    reply = api.http.request("GET", f"/session/{session}/download", json={"files": [path]})
    assert reply.status_code in (404, 500)
    assert reply.headers["content-type"] == "application/problem+json"
    assert b"root:" not in reply.content
    if path != "leads-out":  # that one would be replaced
        assert upload(api, session, **{path: b"x"}).status_code in (400, 404, 500)


@asynccontextmanager
async def terminal(service: Service, session: str, query: str = "") -> AsyncIterator[WebSocketConnection]:
    host = urlsplit(service.endpoint).netloc
    path = f"/stream/session/{session}/pty{query}"
    headers = signed_headers("GET", path, host, "application/octet-stream", service.keys(), datetime.now(UTC))
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    name, port = host.split(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream, trio.open_nursery() as nursery:
        yield await wrap_client_stream(nursery, stream, host, path, extra_headers=extra)
        nursery.cancel_scope.cancel()


async def say(connection: WebSocketConnection, **frame: object) -> None:
    await connection.send_message(json.dumps(frame))


async def type_in(connection: WebSocketConnection, text: str) -> None:
    await say(connection, type="stdin", chars=b64encode(text.encode()).decode())


async def until(connection: WebSocketConnection, wanted: str, *, within: float = 20) -> str:
    seen = ""
    with trio.fail_after(within):
        while wanted not in seen:
            seen += b64decode(json.loads(await connection.get_message())["data"]).decode(errors="replace")
    return seen


async def close_code(connection: WebSocketConnection) -> int:
    """Read until the server closes."""
    with trio.fail_after(10):
        while True:
            try:
                await connection.get_message()
            except ConnectionClosed as closed:
                return int(closed.reason.code)


async def test_a_terminal_lives_on_and_is_found_again(service: Service, session: str) -> None:
    async with terminal(service, session, "?rows=33&cols=99") as connection:
        await type_in(connection, "kept=$((6*7)); stty size; echo ready\n")
        await until(connection, "33 99")
        await say(connection, type="resize", rows=40, cols=120)
        await type_in(connection, "stty size\n")
        await until(connection, "40 120")
    async with terminal(service, session) as first, terminal(service, session) as second:
        await until(first, "40 120")  # the end of its screen
        await type_in(second, "echo kept-$kept\n")
        await until(first, "kept-42")
        await until(second, "kept-42")
        async with terminal(service, session, "?terminal=other") as other:
            await type_in(other, "echo other-$kept.\n")
            await until(other, "other-.")
        await type_in(first, "exit\n")
        assert await close_code(second) == 1000


async def test_a_restart_brings_a_new_terminal(service: Service, session: str) -> None:
    async with terminal(service, session) as mine, terminal(service, session) as theirs:
        await type_in(mine, "kept=$((6*7)); echo ready-$kept\n")
        await until(mine, "ready-42")
        await until(theirs, "ready-42")
        await trio.sleep(3)  # terminals that are lost at once are not opened again
        await say(mine, type="restart")
        await say(mine, type="restart")
        await type_in(theirs, "")
        with trio.fail_after(30):
            while True:
                await type_in(theirs, "echo now-$kept.\n")
                with trio.move_on_after(1):
                    await until(theirs, "now-.")
                    break
        await type_in(mine, "echo again-$kept.\n")
        await until(mine, "again-.")


async def test_the_end_of_a_session_closes_its_terminals(service: Service, api: Api, session: str) -> None:
    async with terminal(service, session) as connection:
        await type_in(connection, "echo ready\n")
        await until(connection, "ready")
        await trio.to_thread.run_sync(api.destroy, session)
        await close_code(connection)
