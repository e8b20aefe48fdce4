"""The interface for clients of 2017, asked by REQ sockets as they have."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import pytest
import trio

from backendai.bridges.postgres import Database
from backendai.bridges.zmq import SocketType, ZmqSocket, open_socket
from backendai.manager import legacy
from backendai.manager.legacy import (
    LegacyInterface,
    LegacySettings,
    open_legacy_interface,
)
from tests.manager.conftest import FakeAgent, House, until

NO_INSTANCE = {"reply": 500, "cause": "There is no available instance."}
TRY_AGAIN = {"reply": 500, "cause": "Kernel creation failed. Try again later."}
NO_MORE = {"reply": 500, "cause": "You cannot create more kernels."}
NO_SUCH_KERNEL = {"reply": 400, "cause": "No such kernel."}

Connect = Callable[[], AbstractAsyncContextManager[ZmqSocket]]


def serving(house: House, settings: LegacySettings) -> AbstractAsyncContextManager[LegacyInterface]:
    manager = house.manager
    return open_legacy_interface(
        settings, manager.accounts, manager.sessions, manager.explain, manager.rate, manager.status
    )


@pytest.fixture
async def connect(house: House) -> AsyncIterator[Connect]:
    async with serving(house, LegacySettings(access_key=house.user.access_key, port=0)) as interface:

        @asynccontextmanager
        async def client() -> AsyncIterator[ZmqSocket]:
            async with open_socket(SocketType.REQ, connect=f"tcp://127.0.0.1:{interface.port}") as socket:
                yield socket

        yield client


async def ask(client: ZmqSocket, **request: object) -> dict[str, object]:
    await client.send([json.dumps(request).encode()])
    return await heard(client)


async def heard(client: ZmqSocket) -> dict[str, object]:
    with trio.fail_after(20):
        (frame,) = await client.recv()
    reply: dict[str, object] = json.loads(frame)
    return reply


async def create(client: ZmqSocket, entry: str, lang: str = "python") -> dict[str, object]:
    return await ask(client, action=2, user_id="u", entry_id=entry, lang=lang)


async def ended(house: House, kernel_id: str) -> bool:
    return await house.status(kernel_id) == "TERMINATED"


async def test_a_session_from_first_to_last(house: House, agent: FakeAgent, connect: Connect) -> None:
    async with connect() as client:
        assert await ask(client, action=0, body="é") == {"reply": 0, "body": "é"}
        made = await create(client, "e")
        assert made["reply"] == 200
        address = made["kernel_addr"]
        assert str(address).startswith("tcp://127.0.0.1:")
        assert (made["stdin_addr"], made["stdout_addr"]) == (address, address)
        record = await house.manager.sessions.resolve(house.user, str(made["kernel_id"]))
        assert (record.status, record.tag) == ("RUNNING", "u:e:python")
        assert await create(client, "e") == made
        assert (await create(client, "other"))["kernel_id"] != made["kernel_id"]
        assert await ask(client, action=3, kernel_id=made["kernel_id"]) == {"reply": 200}
        await until(lambda: ended(house, str(made["kernel_id"])))
        assert await ask(client, action=3, kernel_id=made["kernel_id"]) == NO_SUCH_KERNEL
        assert (await create(client, "e"))["kernel_id"] != made["kernel_id"]


async def test_only_what_was_made_here_can_be_ended_here(
    house: House, agent: FakeAgent, connect: Connect
) -> None:
    await house.create("of-the-user")
    own = await house.manager.sessions.resolve(house.user, "of-the-user")
    async with connect() as client:
        made = await create(client, "e")
        record = await house.manager.sessions.resolve(house.user, str(made["kernel_id"]))
        for ref in (str(own.session_id), "of-the-user", record.name, record.name[:9], "", str(uuid4())):
            assert await ask(client, action=3, kernel_id=ref) == NO_SUCH_KERNEL
    assert len(agent.kernels) == 2


async def test_many_ask_for_the_same(house: House, agent: FakeAgent, connect: Connect) -> None:
    replies = []

    async def one() -> None:
        async with connect() as client:
            replies.append(await create(client, "e"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    assert [reply["reply"] for reply in replies] == [200] * 8
    assert len({reply["kernel_id"] for reply in replies}) == len(agent.kernels) == 1


async def test_one_that_takes_its_time_holds_up_nobody(
    house: House, agent: FakeAgent, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.mood = "ignore"
    async with connect() as slow, connect() as quick, trio.open_nursery() as nursery:
        replies = []

        async def wait() -> None:
            replies.append(await create(slow, "slow"))

        nursery.start_soon(wait)
        await until(lambda: agent.calls)
        assert await ask(quick, action=0, body=1) == {"reply": 0, "body": 1}
        monkeypatch.setattr(legacy, "_MOST_UNDER_WAY", 1)
        assert await create(quick, "quick") == TRY_AGAIN
        assert await ask(quick, action=0, body=2) == {"reply": 0, "body": 2}
        agent.mood = "run"
        agent.reboot()
    assert replies[0]["reply"] == 200


async def test_what_is_refused(
    house: House, agent: FakeAgent, connect: Connect, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legacy, "_PATIENCE", 0.5)
    async with connect() as client:
        assert await create(client, "e", lang="no-such-image") == TRY_AGAIN
        agent.mood = "fail"
        assert await create(client, "fails") == TRY_AGAIN
        agent.mood = "run"
        for _ in range(100):
            if (reply := await create(client, str(_)))["reply"] != 200:
                break
        assert reply == NO_INSTANCE
        await database.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 1")
        assert await create(client, "late") == NO_MORE
        left = await database.fetch("SELECT DISTINCT status FROM sessions ORDER BY status")
        assert "PENDING" not in [row["status"] for row in left]
        await database.execute("UPDATE keypairs SET is_active = false")
        house.manager.accounts.forget(None)
        assert await create(client, "0") == TRY_AGAIN
        assert await ask(client, action=0, body=None) == {"reply": 0, "body": None}


async def test_hostile_peers(house: House, agent: FakeAgent, connect: Connect) -> None:
    async with connect() as client:
        endpoint = client.endpoint
        async with open_socket(SocketType.DEALER, connect=endpoint) as dealer:
            for frames in (
                [b"x"],
                [b"", b"a", b"b"],
                [b"", b""],
                [b"x", b'{"action":0,"body":1}'],
                [b"", b"{"],
            ):
                await dealer.send(frames)
            malformed = {"reply": 400, "cause": "Malformed API request."}
            for _ in range(2):
                with trio.fail_after(10):
                    assert json.loads((await dealer.recv())[1]) == malformed
            for _ in range(2000):  # whose answers are not read
                await dealer.send([b"", json.dumps({"action": 0, "body": "x" * 1000}).encode()])
            await dealer.send([b"", os.urandom(legacy.MAX_REQUEST_BYTES + 1)])
        assert await ask(client, action=0, body="still there") == {"reply": 0, "body": "still there"}
        assert await ask(client, action=9) == {}
        assert (await create(client, "e"))["reply"] == 200


async def test_an_address_of_choice_and_an_account_that_is_not_there(house: House, agent: FakeAgent) -> None:
    async with (
        serving(house, LegacySettings(access_key="AKIANOBODY", port=0)) as interface,
        open_socket(SocketType.REQ, connect=f"tcp://127.0.0.1:{interface.port}") as client,
    ):
        assert await create(client, "e") == TRY_AGAIN
        assert await ask(client, action=3, kernel_id=str(uuid4())) == NO_SUCH_KERNEL
    key = house.user.access_key
    async with serving(house, LegacySettings(access_key=key, port=0, kernel_ip="10.1.2.3")) as interface:
        async with open_socket(SocketType.REQ, connect=f"tcp://127.0.0.1:{interface.port}") as client:
            assert (await create(client, "e"))["kernel_addr"] == f"tcp://10.1.2.3:{interface.port}"
        with pytest.raises(OSError, match=r"Address (already )?in use"):
            async with serving(house, LegacySettings(access_key=key, port=interface.port)):
                pass
