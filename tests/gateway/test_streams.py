"""WebSocket runs and server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from fakes import SESSION_ID, USER, Fakes, event
from gateway_client import SigningClient, sign_headers
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from backendai.core.execution import RunMode
from backendai.core.task import TaskState, TaskStatus
from backendai.gateway import event_stream
from backendai.gateway.app import Gateway

PATH = "/stream/session/my-sess/execute"


@asynccontextmanager
async def socket(
    client: SigningClient, port: int, path: str = PATH, *, signed: bool = True
) -> AsyncIterator[WebSocketConnection]:
    headers = sign_headers("GET", path, client.host, content_type=None) if signed else {}
    extra = [(name.encode(), value.encode()) for name, value in headers.items()]
    # The library leaves sockets open that its peer closes, so the stream is ours.
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        connection = await wrap_client_stream(nursery, stream, client.host, path, extra_headers=extra)
        yield connection
        with trio.move_on_after(1):
            await connection.aclose()
        nursery.cancel_scope.cancel()


async def frames(connection: WebSocketConnection) -> list[Any]:
    found = []
    with trio.fail_after(5):
        while True:
            try:
                found.append(msgspec.json.decode(await connection.get_message()))
            except ConnectionClosed:
                return found


async def test_run(client: SigningClient, port: int, fakes: Fakes) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "two", "options": {}}')
        (frame,) = await frames(connection)
    assert connection.closed.code == 1000
    assert frame == {
        "status": "finished",
        "exitCode": 0,
        "options": None,
        "files": [],
        "console": [["stdout", "one two"], ["media", ["image/png", "data:,x"]], ["stderr", "oops"]],
    }
    assert fakes.execution.requests[0].after == 0


async def test_run_goes_on_and_asks(client: SigningClient, port: int, fakes: Fakes) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "slow"}')
        assert [frame["status"] for frame in await frames(connection)] == ["continued", "finished"]
    first, second = fakes.execution.requests
    assert (second.mode, second.after, second.run_id) == (RunMode.CONTINUE, 4, first.run_id)
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "input"}')
        with trio.fail_after(5):
            asked = msgspec.json.decode(await connection.get_message())
        assert asked["options"] == {"is_password": False}
        await connection.send_message("Ann \u00e9")
        assert (await frames(connection))[-1]["status"] == "finished"
    assert fakes.execution.requests[-1].mode is RunMode.INPUT
    assert fakes.execution.requests[-1].code == "Ann \u00e9"


@pytest.mark.parametrize(
    "first",
    ["{", "[]", "{}", '{"mode": "dance"}', '{"mode": "query", "code": 5}', "[" * 100_000, '{"mode": 5}'],
)
async def test_bad_first_frame(client: SigningClient, port: int, first: str) -> None:
    async with socket(client, port) as connection:
        await connection.send_message(first)
        (frame,) = await frames(connection)
    assert frame["status"] == "error"
    assert frame["msg"].startswith("Invalid API parameters: ")


async def test_refusal_of_the_run(client: SigningClient, port: int) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "dead"}')
        (frame,) = await frames(connection)
    assert frame["msg"].startswith("BackendError: ")


async def test_leaving_interrupts_the_run(client: SigningClient, port: int, fakes: Fakes) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "hang"}')
        with trio.fail_after(5):
            while not fakes.execution.requests:
                await trio.sleep(0.01)
    with trio.fail_after(5):
        await fakes.execution.interrupted.wait()


async def test_server_stop_says_so_and_leaves_the_run_alone(
    client: SigningClient, port: int, fakes: Fakes, app: Gateway
) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "hang"}')
        with trio.fail_after(5):
            while not fakes.execution.requests:
                await trio.sleep(0.01)
        app.edge.close()
        (frame,) = await frames(connection)
    assert frame["status"] == "server-restarting"
    assert connection.closed.code == 1001
    assert not fakes.execution.interrupted.is_set()


async def test_flood_of_messages_closes_the_socket(client: SigningClient, port: int, fakes: Fakes) -> None:
    async with socket(client, port) as connection:
        await connection.send_message('{"mode": "query", "code": "hang"}')
        with trio.fail_after(5):
            try:
                for _ in range(500):
                    await connection.send_message("x")
                await connection.get_message()
            except ConnectionClosed as closed:
                assert closed.reason is None or closed.reason.code == 1008  # noqa: PT017


@pytest.mark.parametrize(
    ("path", "signed", "status", "code"),
    [
        (PATH, False, 400, b"invalid-auth-params"),
        ("/stream/session/my-sess/dance", True, 404, b"url-not-found"),
        (PATH + "?owner_access_key=x", True, 101, b""),
    ],
)
async def test_upgrade_is_refused_with_a_problem(
    client: SigningClient, port: int, path: str, signed: bool, status: int, code: bytes
) -> None:
    try:
        async with socket(client, port, path, signed=signed) as connection:
            await connection.send_message('{"mode": "query", "code": "x"}')
            assert (await frames(connection))[0]["msg"] == "Invalid API parameters: Unknown owner access key"
            assert status == 101
    except* ConnectionRejected as rejected:
        (error,) = rejected.exceptions
        assert isinstance(error, ConnectionRejected)
        assert error.status_code == status
        assert code in (error.body or b"")


class Events:
    """Reads a stream line by line, as the official clients do."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._text = b""

    async def _fill(self) -> None:
        with trio.fail_after(5):
            data = await self._stream.receive_some()
        if not data:
            raise EOFError
        self._buffer += data

    async def head(self) -> str:
        while b"\r\n\r\n" not in self._buffer:
            await self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.decode().lower()

    async def _chunk(self) -> bytes:
        while True:
            size, found, rest = self._buffer.partition(b"\r\n")
            if found and len(rest) >= int(size, 16) + 2:
                self._buffer = rest[int(size, 16) + 2 :]
                return rest[: int(size, 16)]
            await self._fill()

    async def line(self) -> str:
        """Raises EOFError at the end, be it proper or not."""
        while b"\n" not in self._text:
            chunk = await self._chunk()
            if not chunk:
                raise EOFError
            self._text += chunk
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    async def rest(self) -> list[str]:
        """All lines that are still to come, but empty ones."""
        lines = []
        try:
            while True:
                lines.append(await self.line())
        except EOFError:
            return [line for line in lines if line]

    async def event(self) -> tuple[str, Any]:
        name = ""
        while True:
            line = await self.line()
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                return name, msgspec.json.decode(line.removeprefix("data: "))


@asynccontextmanager
async def stream(
    client: SigningClient, target: str, version: str = "v6.20220315", more: dict[str, str] | None = None
) -> AsyncIterator[Events]:
    headers = sign_headers("GET", target, client.host, content_type=None, version=version) | (more or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    host, port = client.host.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as connection:
        await connection.send_all(f"GET {target} HTTP/1.1\r\nHost: {client.host}\r\n{lines}\r\n".encode())
        reader = Events(connection)
        head = await reader.head()
        assert head.startswith("http/1.1 200")
        assert "content-type: text/event-stream" in head
        assert "cache-control: no-cache" in head
        yield reader


async def test_events(client: SigningClient, fakes: Fakes, app: Gateway) -> None:
    async with stream(client, "/events/session?sessionName=mysess&scope=*") as reader:
        assert await reader.line() == ": ping"
        fakes.events.broadcast.publish(event())
        assert await reader.event() == (
            "session_started",
            {
                "reason": "",
                "sessionName": "my-sess",
                "ownerAccessKey": USER.access_key,
                "sessionId": str(SESSION_ID),
                "kernelId": str(SESSION_ID),
            },
        )
        fakes.events.broadcast.publish(event("kernel_terminated"))
        name, data = await reader.event()
        assert (name, data["clusterRole"], data["clusterIdx"]) == ("kernel_terminated", "main", 1)
        app.edge.close()
        # Nothing that would keep a client from coming back
        assert not await reader.rest()
    assert fakes.events.wanted is not None
    assert fakes.events.wanted.session_name == "mysess"


async def test_pings(client: SigningClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PING_INTERVAL", 0.01)
    async with stream(client, "/events/session") as reader:
        assert [await reader.line() for _ in range(4)] == [": ping", "", ": ping", ""]


@pytest.mark.parametrize(
    ("target", "version", "expected"),
    [
        ("/events/session", "v6.20220315", {}),
        (f"/events/session?sessionId={SESSION_ID}", "v6.20220315", {"session_id": SESSION_ID}),
        ("/events/session?name=abcd", "v5.20191215", {"session_name": "abcd"}),
        ("/stream/kernel/_/events?sessionId=abcd", "v4.20190615", {"session_name": "abcd"}),
        ("/events/session?scope=session,kernel", "v9.20250722", {}),
        ("/events/session?scope=session", "v6.20220315", {"levels": frozenset({"session"})}),
        ("/events/session?group=research", "v6.20220315", {"group": "research"}),
        (
            f"/events/session?owner_access_key={USER.access_key}",
            "v6.20220315",
            {"owner_access_key": USER.access_key},
        ),
    ],
)
async def test_filters_of_each_generation(
    client: SigningClient, fakes: Fakes, target: str, version: str, expected: dict[str, Any]
) -> None:
    async with stream(client, target, version):
        pass
    wanted = fakes.events.wanted
    assert wanted is not None
    for name in ("session_id", "session_name", "group", "owner_access_key"):
        assert getattr(wanted, name) == expected.get(name)
    assert wanted.levels == expected.get("levels", frozenset({"session", "kernel"}))


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/events/session?ownerAccessKey=AKIAOTHER", 403),
        ("/events/session?scope=everything", 400),
        ("/events/session?sessionId=no-uuid", 400),
    ],
)
async def test_refused_before_the_stream_begins(client: SigningClient, target: str, status: int) -> None:
    assert (await client("GET", target, content_type=None)).status_code == status


async def test_slow_reader_is_cut(client: SigningClient, fakes: Fakes) -> None:
    async with stream(client, "/events/session") as reader:
        await fakes.events.subscribed.wait()
        for _ in range(20):  # more than its subscription holds
            fakes.events.broadcast.publish(event())
        rest = await reader.rest()
        assert rest.count("event: session_started") == 4
        assert rest[-2] == "event: server_close"
        assert rest[-1].startswith('data: {"reason": "too slow')


async def test_going_on_from_an_event(client: SigningClient, fakes: Fakes) -> None:
    async with stream(client, "/events/session?lastEventId=40") as reader:
        fakes.events.broadcast.publish(event())
        lines = [await reader.line() for _ in range(5)]
    assert "id: 41" in lines
    assert fakes.events.after == 40
    async with stream(client, "/events/session?lastEventId=40", more={"Last-Event-ID": "41"}):
        pass
    assert fakes.events.after == 41
    assert fakes.events.reader is not None
    assert fakes.events.reader.startswith("BackendAI signMethod")
    for wrong in ("x", "-1", "1" * 19):
        answer = await client("GET", "/events/session", content_type=None, headers={"Last-Event-ID": wrong})
        assert answer.status_code == 400


async def test_lost_events_are_told(client: SigningClient, fakes: Fakes) -> None:
    fakes.events.complete = False
    async with stream(client, "/events/session", more={"Last-Event-ID": "2"}) as reader:
        assert (await reader.event())[0] == "events_lost"


async def test_a_background_task(client: SigningClient, fakes: Fakes) -> None:
    running = TaskState(id=SESSION_ID, status=TaskStatus.RUNNING, current_progress=1, total_progress=4)
    fakes.tasks.states = [
        running,
        msgspec.structs.replace(running, current_progress=2.5, message="half way"),
        msgspec.structs.replace(
            running, status=TaskStatus.PARTIAL_SUCCESS, message="so so", errors=("one", "two")
        ),
    ]
    async with stream(client, f"/events/background-task?task_id={SESSION_ID}") as reader:
        common = {"task_id": str(SESSION_ID)}
        assert await reader.event() == (
            "bgtask_updated",
            common | {"message": None, "current_progress": 1.0, "total_progress": 4.0},
        )
        assert await reader.line() == "retry: 5"
        assert (await reader.event())[1]["message"] == "half way"
        assert await reader.event() == (
            "bgtask_partial_success",
            common | {"message": "so so", "errors": ["one", "two"]},
        )
        assert await reader.event() == ("server_close", {})
        assert not await reader.rest()


async def test_a_background_task_that_is_over(client: SigningClient, fakes: Fakes) -> None:
    fakes.tasks.states = [
        TaskState(id=SESSION_ID, status=TaskStatus.DONE, current_progress=3, total_progress=4, message="x")
    ]
    async with stream(client, f"/events/background-task?taskId={SESSION_ID}") as reader:
        assert await reader.event() == (
            "bgtask_done",
            {
                "task_id": str(SESSION_ID),
                "message": "x",
                "status": "bgtask_done",
                "current_progress": "3",
                "total_progress": "4",
            },
        )
        assert (await reader.rest())[-2:] == ["event: server_close", "data: {}"]


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("?task_id=x", 400), (f"?task_id={UUID(int=0)}", 404)]
)
async def test_no_background_task(client: SigningClient, query: str, status: int) -> None:
    answer = await client("GET", "/events/background-task" + query, content_type=None)
    assert answer.status_code == status


async def test_hang_up_ends_the_subscription(client: SigningClient, fakes: Fakes) -> None:
    async with stream(client, "/events/session"):
        await fakes.events.subscribed.wait()
    with trio.fail_after(5):
        while fakes.events.broadcast._subscriptions:
            await trio.sleep(0.01)
