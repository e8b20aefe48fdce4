"""What happens to a session is told to the URL it names: signed, in order, until it is heard."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any

import pytest
import trio
import trustme
from manager.conftest import FakeAgent, House, open_house, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import InvalidParameters
from backendai.core.notice import CallbackWaits
from backendai.core.session import SessionType
from backendai.manager import callbacks
from backendai.manager.posting import PostFailed, parse_place, post
from backendai.manager.settings import ManagerSettings
from backendai.storage.notices import notify
from backendai.storage.seed import FirstAccounts

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Receiver:
    """An HTTP server that keeps what it gets, and answers with the next of ``answers``, or 204."""

    port: int = 0
    answers: list[bytes] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    deaf: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=b"

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["event"] for body in self.bodies]

    async def serve(self, stream: trio.abc.Stream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers["content-length"]):
            body += await stream.receive_some(65536)
        self.heads.append({"": lines[0], **headers})
        self.bodies.append(body)
        if self.deaf:
            await trio.sleep_forever()
        answer = self.answers.pop(0) if self.answers else b"204 No Content"
        await stream.send_all(b"HTTP/1.1 " + answer + b"\r\ncontent-length: 0\r\n\r\n")
        await stream.aclose()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    receiver.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        yield receiver
        nursery.cancel_scope.cancel()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def its_agent() -> FakeAgent:
    return FakeAgent("i-one")


@pytest.fixture
async def talking(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts, its_agent: FakeAgent
) -> AsyncIterator[House]:
    """A house that may call back to this host, with an agent."""
    async with open_house(replace(settings, callback_networks=LOOPBACK), accounts) as house:
        await house.add_agent(its_agent)
        yield house


async def waiting(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("SELECT * FROM callbacks ORDER BY id")]


async def try_again(database: Database) -> None:
    """As if the pause after the last failure were over."""
    await database.execute(
        "UPDATE callbacks SET next_attempt = now() WHERE attempts > 0 AND next_attempt IS NOT NULL"
    )
    await notify(database, CallbackWaits())


async def test_all_there_is_to_tell(
    talking: House, receiver: Receiver, accounts: FirstAccounts, database: Database
) -> None:
    created = await talking.manager.sessions.create(
        talking.user, talking.user, wish("told-of", callback_url=receiver.url)
    )
    await talking.create("not-told-of")
    await talking.manager.sessions.destroy(talking.user, talking.user, "told-of")
    await until(lambda: "terminated" in receiver.events)
    assert receiver.events == ["enqueued", "scheduled", "preparing", "started", "terminated"]
    told = json.loads(receiver.bodies[0])
    assert told["type"] == "session_lifecycle"
    assert told["session_id"] == str(created.session_id)
    assert told["when"].endswith(("Z", "+00:00"))
    head = receiver.heads[0]
    assert head[""] == "POST /hook?a=b HTTP/1.1"
    assert head["host"] == f"127.0.0.1:{receiver.port}"
    assert head["content-type"] == "application/json"
    numbers = [int(each["x-backendai-event-id"]) for each in receiver.heads]
    assert numbers == sorted(numbers)
    for each, body in zip(receiver.heads, receiver.bodies, strict=True):
        parts = dict(part.split("=") for part in each["x-backendai-signature"].split(","))
        assert each["x-backendai-access-key"] == accounts.access_key
        key = hmac.digest(accounts.secret_key.reveal().encode(), b"backendai-callback", hashlib.sha256)
        expected = hmac.digest(key, parts["t"].encode() + b"." + body, hashlib.sha256).hex()
        assert parts["v1"] == expected
    await until(lambda: _nothing_waits(database))


async def _nothing_waits(database: Database) -> bool:
    return not await waiting(database)


async def test_a_failed_delivery_holds_up_the_later_ones(
    talking: House, receiver: Receiver, database: Database
) -> None:
    receiver.answers = [b"500 Oops", b"302 Found"]
    await talking.manager.sessions.create(
        talking.user, talking.user, wish("patient", callback_url=receiver.url)
    )

    async def attempts() -> int:
        rows = await waiting(database)
        return rows[0]["attempts"] if rows else 0

    for number, why in ((1, "the receiver answered 500"), (2, "the receiver answered 302")):
        await until(lambda n=number: _equals(attempts, n))
        (first, *others) = await waiting(database)
        assert first["last_error"] == why
        assert first["next_attempt"] > first["created_at"]
        assert all(each["attempts"] == 0 for each in others)
        assert receiver.events == ["enqueued"] * number
        await try_again(database)
    await until(lambda: _nothing_waits(database))
    assert receiver.events[2:] == ["enqueued", "scheduled", "preparing", "started"]


async def _equals(function: Any, value: object) -> bool:
    return bool(await function() == value)


async def test_in_the_end_it_is_given_up(talking: House, receiver: Receiver, database: Database) -> None:
    receiver.answers = [b"410 Gone"]
    await talking.manager.sessions.create(
        talking.user, talking.user, wish("hopeless", callback_url=receiver.url)
    )
    await until(lambda: receiver.events[-1:] == ["started"])
    (given_up,) = await waiting(database)
    assert (given_up["event"], given_up["next_attempt"]) == ("enqueued", None)
    told = await talking.manager.explain.explain(talking.user, talking.user, "hopeless")
    assert told["callbacks"] == [
        {"event": "enqueued", "attempts": 1, "lastError": "the receiver answered 410", "nextAttempt": None}
    ]
    await talking.manager.callbacks.prune()
    assert len(await waiting(database)) == 1
    await database.execute("UPDATE callbacks SET created_at = created_at - interval '4 days'")
    await talking.manager.callbacks.prune()
    assert await waiting(database) == []


async def test_the_pauses_come_to_an_end(talking: House, receiver: Receiver, database: Database) -> None:
    await talking.manager.sessions.create(
        talking.user, talking.user, wish("stubborn", callback_url=receiver.url)
    )
    await until(lambda: _nothing_waits(database))
    receiver.answers = [b"503 Busy"] * 20
    await talking.manager.sessions.destroy(talking.user, talking.user, "stubborn")

    async def given_up() -> bool:
        await try_again(database)
        rows = await waiting(database)
        return bool(rows) and rows[0]["next_attempt"] is None

    await until(given_up)
    assert (await waiting(database))[0]["attempts"] == 7


async def test_a_receiver_that_does_not_answer(
    talking: House, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "TIMEOUT", 0.3)
    receiver.deaf = True
    await talking.manager.sessions.create(
        talking.user, talking.user, wish("deaf-ears", callback_url=receiver.url)
    )
    await until(lambda: _first_error(database, "no answer within 0.3 s"))


async def _first_error(database: Database, text: str) -> bool:
    rows = await waiting(database)
    return bool(rows) and text in (rows[0]["last_error"] or "")


async def test_batch_results_are_told(talking: House, its_agent: FakeAgent, receiver: Receiver) -> None:
    for name, exit_code, told in (("good", 0, "success"), ("poor", 1, "failure")):
        job = wish(name, type=SessionType.BATCH, startup_command="x", callback_url=receiver.url)
        created = await talking.manager.sessions.create(talking.user, talking.user, job)
        await until(lambda: receiver.events[-1:] == ["started"])
        its_agent.end(created.session_id, "task-finished", exit_code)
        await until(lambda told=told: receiver.events[-2:] == [told, "terminated"])


# -- where it must not go


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "http:///nothing",
        "http://user:word@example.org/",
        "example.org",
        "http://exa mple.org/",
        "http://example.org/\u00e9",
        "http://127.0.0.1/",
        "http://[::1]:8080/",
        "http://169.254.169.254/latest/meta-data",
        "http://example.org:99999/",
    ],
)
async def test_urls_that_are_refused_at_once(house: House, agent: FakeAgent, url: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        await house.create("refused", callback_url=url)
    assert "callback_url" in caught.value.data


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1"])
async def test_names_that_lead_here_are_found_out(
    house: House, agent: FakeAgent, receiver: Receiver, database: Database, host: str
) -> None:
    await house.create("sneaky", callback_url=f"http://{host}:{receiver.port}/")
    await until(lambda: _first_error(database, "which is loopback"))
    assert (await waiting(database))[0]["next_attempt"] is None
    assert receiver.bodies == []


class Resolver(trio.abc.HostnameResolver):
    """Answers differently each time."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        address = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


async def test_a_name_is_resolved_once(receiver: Receiver) -> None:
    """What was checked is what is connected to, whatever the name says a moment later."""
    place = parse_place(f"http://changing.example:{receiver.port}/")
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.2", "169.254.169.254"))
    with pytest.raises(PostFailed, match="cannot be reached"):
        await post(place, b"", {}, allowed=[ip_network("127.0.0.2/32")])
    assert receiver.bodies == []
    trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1", "127.0.0.9"))
    assert await post(place, b"x", {}, allowed=LOOPBACK) == 204
    assert receiver.heads[0]["host"] == f"changing.example:{receiver.port}"
    trio.socket.set_custom_hostname_resolver(None)


async def test_tls_is_checked(receiver: Receiver) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    (listener,) = await trio.open_ssl_over_tcp_listeners(0, server, host="127.0.0.1")
    port = listener.transport_listener.socket.getsockname()[1]

    async def serve(stream: trio.SSLStream[Any]) -> None:
        with suppress(trio.BrokenResourceError):  # a client that does not trust us
            await receiver.serve(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        for host, trusting, outcome in (
            ("receiver.example", client, None),
            ("another.example", client, "certificate is not valid for 'another.example'"),
            ("receiver.example", None, "CERTIFICATE_VERIFY_FAILED"),
        ):
            trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.1"))
            place = parse_place(f"https://{host}:{port}/")
            if outcome is None:
                assert await post(place, b"x", {}, allowed=LOOPBACK, tls=trusting) == 204
                continue
            with pytest.raises(PostFailed, match=outcome):
                await post(place, b"x", {}, allowed=LOOPBACK, tls=trusting)
        nursery.cancel_scope.cancel()
    trio.socket.set_custom_hostname_resolver(None)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 " + b"2" * 100_000])
async def test_answers_that_are_none(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(answer)
            await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        place = parse_place(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
        with pytest.raises(PostFailed):
            await post(place, b"x", {}, allowed=LOOPBACK)
        nursery.cancel_scope.cancel()
