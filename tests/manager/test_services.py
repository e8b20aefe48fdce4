from __future__ import annotations

import pytest
import trio
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.bridges.redis import RedisBridge, open_redis
from backendai.core.errors import (
    AuthFailed,
    Forbidden,
    InsufficientPrivilege,
    InvalidParameters,
    ObjectNotFound,
    ServerFrozen,
)
from backendai.manager.events import EventFilter
from backendai.manager.health import ESSENTIAL, OK
from backendai.manager.live_stats import AGENT_SEEN, KERNEL_STATS
from backendai.manager.rate import RateLimiter
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts

# -- accounts


async def test_a_change_of_an_account_is_seen_at_once(
    house: House, accounts: FirstAccounts, database: Database
) -> None:
    service = house.manager.accounts
    key = accounts.access_key
    for change in (
        "UPDATE keypairs SET is_active = false WHERE access_key = $1",
        "UPDATE users SET status = 'inactive' FROM keypairs WHERE user_id = users.id AND access_key = $1",
    ):
        assert await service.credential(key) is not None
        await database.execute(change, key)

        async def refused() -> bool:
            return await service.credential(key) is None

        await until(refused)
        await database.execute("UPDATE keypairs SET is_active = true")
        await database.execute("UPDATE users SET status = 'active'")

        async def admitted() -> bool:
            return await service.credential(key) is not None

        await until(admitted)


async def test_unknown_keys_cost_one_query_for_a_while(house: House) -> None:
    before = house.manager.database.round_trips
    for _ in range(50):
        assert await house.manager.accounts.credential("AKIANOBODY") is None
    # The loops of the manager ask as well.
    assert house.manager.database.round_trips < before + 25


async def test_counting_requests_does_not_invalidate(house: House, database: Database) -> None:
    service = house.manager.accounts
    for _ in range(3):
        service.count_query(house.user.access_key)
    await service.credential(house.user.access_key)
    await service.flush_queries()
    row = await database.fetchrow(
        "SELECT num_queries, last_used FROM keypairs WHERE access_key = $1", house.user.access_key
    )
    assert row is not None
    assert row["num_queries"] == 3
    assert row["last_used"] is not None
    await trio.sleep(0.1)
    before = house.manager.database.round_trips
    await service.credential(house.user.access_key)
    assert house.manager.database.round_trips == before


async def test_acting_for_others(house: House) -> None:
    service = house.manager.accounts
    user, admin = house.user, house.admin
    assert await service.acting_as(user, None) == user
    assert await service.acting_as(user, user.access_key) == user
    assert await service.acting_as(admin, user.access_key) == user
    with pytest.raises(Forbidden, match="Only admins"):
        await service.acting_as(user, admin.access_key)
    with pytest.raises(InvalidParameters, match="Unknown owner access key"):
        await service.acting_as(admin, "AKIANOBODY")
    assert [name for _, name in await service.groups_of(user)] == ["default"]


# -- rate limits


async def test_the_window_counts_down(redis: RedisBridge) -> None:
    limiter = RateLimiter(redis)
    states = [await limiter.check("key", 3) for _ in range(5)]
    assert [state.remaining for state in states] == [2, 1, 0, 0, 0]
    assert [state.allowed for state in states] == [True, True, True, False, False]
    assert (await limiter.check("other", 3)).remaining == 2


async def test_concurrent_requests_share_round_trips(redis: RedisBridge) -> None:
    limiter = RateLimiter(redis)
    await limiter.check("key", 1000)
    before = redis.round_trips
    remaining: list[int] = []

    async def ask() -> None:
        remaining.append((await limiter.check("key", 1000)).remaining)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert sorted(remaining, reverse=True) == list(range(998, 898, -1))
    assert redis.round_trips <= before + 3


async def test_without_redis_everything_is_allowed(asyncio_loop: None) -> None:
    async with open_redis("redis://127.0.0.1:1", 4) as redis:
        limiter = RateLimiter(redis)
        state = await limiter.check("key", 1)
        assert state.allowed
        assert limiter.degraded


# -- events


async def test_events_of_a_session_from_beginning_to_end(house: House, agent: FakeAgent) -> None:
    names = []
    async with house.manager.events.subscribe(house.user, EventFilter(session_name="watched")) as events:
        await house.create("other-one")
        await house.create("watched")
        await house.manager.sessions.destroy(house.user, house.user, "watched")
        with trio.fail_after(10):
            async for event in events:
                if event.name != "kernel_creating":  # the network of these tests may bring it late
                    names.append(event.name)
                if event.name == "session_terminated":
                    break
    assert names == [
        "session_enqueued",
        "session_scheduled",
        "kernel_preparing",
        "kernel_started",
        "session_started",
        "kernel_terminating",
        "kernel_terminated",
        "session_terminated",
    ]


async def test_who_sees_what(house: House, agent: FakeAgent) -> None:
    events = house.manager.events
    levels = frozenset({"session"})
    async with (
        events.subscribe(house.user, EventFilter(levels=levels)) as own,
        events.subscribe(
            house.admin, EventFilter(levels=levels, owner_access_key=house.user.access_key)
        ) as his,
    ):
        await house.manager.sessions.create(house.admin, house.admin, wish("admins"))
        await house.create("users")
        with trio.fail_after(5):
            assert (await anext(own)).session_name == "users"
            assert (await anext(his)).session_name == "users"
    with pytest.raises(Forbidden):
        async with events.subscribe(house.user, EventFilter(owner_access_key=house.admin.access_key)):
            pass
    with pytest.raises(ObjectNotFound):
        async with events.subscribe(house.user, EventFilter(group="nowhere")):
            pass


async def test_streams_end_when_the_service_stops(house: House) -> None:
    async with house.manager.events.subscribe(house.user, EventFilter()) as events:
        house.manager.events.close()
        with trio.fail_after(5):
            assert [event async for event in events] == []


# -- status


async def test_freezing(house: House, agent: FakeAgent) -> None:
    status = house.manager.status
    with pytest.raises(InsufficientPrivilege):
        await status.set_status(house.user, "frozen")
    await house.create("survives")
    await status.set_status(house.admin, "FROZEN")
    status.gate(write=False)
    with pytest.raises(ServerFrozen):
        status.gate(write=True)
    answer = await status.status()
    assert (answer["status"], answer["active_sessions"]) == ("frozen", 1)
    await status.set_status(house.admin, "frozen", True)

    async def ended() -> bool:
        return await house.status("survives") == "TERMINATED"

    await until(ended)
    await status.set_status(house.admin, "running")
    status.gate(write=True)


async def test_announcements(house: House) -> None:
    status = house.manager.status
    assert await status.announcement() == {"enabled": False, "message": ""}
    await status.set_announcement(house.admin, True, "Back at noon.")
    assert await status.announcement() == {"enabled": True, "message": "Back at noon."}
    with pytest.raises(InvalidParameters):
        await status.set_announcement(house.admin, True, "")
    await status.set_announcement(house.admin, False, None)
    assert (await status.announcement())["enabled"] is False


async def test_agents_may_be_kept_out_of_scheduling(house: House, agent: FakeAgent) -> None:
    await house.manager.status.include_agents(house.admin, ["i-one"], False)
    assert await house.create("waits", max_wait=0.2) == "TIMEOUT"
    with pytest.raises(ObjectNotFound):
        await house.manager.status.include_agents(house.admin, ["i-none"], True)
    await house.manager.status.include_agents(house.admin, ["i-one"], True)

    async def runs() -> bool:
        return await house.status("waits") == "RUNNING"

    await until(runs)


# -- images, presence, health, enrollment


async def test_images_and_their_names(house: House, agent: FakeAgent) -> None:
    images = house.manager.images
    (image,) = await images.list()
    assert image.canonical == "local/python:3.11"
    assert {"python", "python:3", "python:3.11"} <= set(image.aliases)
    assert image.agents == ("i-one",)
    await images.alias("snake", "python:3.11")
    assert (await images.resolve("snake", "x86_64")).id == image.id
    await images.dealias("snake")
    with pytest.raises(ObjectNotFound):
        await images.resolve("snake", "x86_64")
    with pytest.raises(ObjectNotFound, match="disallowed registry"):
        await images.resolve("python", "x86_64", ["cr.backend.ai"])


async def test_heartbeats_go_to_redis_and_never_to_the_database(
    house: House, agent: FakeAgent, settings: ManagerSettings
) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("measured"))

    async def measured() -> bool:
        return created.session_id in await house.manager.live_stats.kernels([created.session_id])

    await until(measured)
    record = await house.manager.sessions.info(house.user, "measured")
    assert record.last_stat is not None
    assert record.last_stat.cpu_used == 5.0
    async with (
        open_redis(settings.redis_url.reveal(), 1) as kernels,
        open_redis(settings.redis_url.reveal(), 2) as agents,
    ):

        async def written() -> bool:
            known = await kernels.call("HEXISTS", KERNEL_STATS, str(created.session_id))
            return bool(known and await agents.call("HEXISTS", AGENT_SEEN, "i-one"))

        await until(written)


async def test_health(house: House) -> None:
    answer = await house.manager.health.readiness()
    assert answer["agents"] != OK
    assert all(answer[part] == OK for part in ESSENTIAL)
    await house.add_agent(FakeAgent("i-one"))
    assert set((await house.manager.health.readiness()).values()) == {OK}


async def test_a_token_enrolls_one_agent_once(house: House) -> None:
    enrollment = house.manager.enrollment
    token = await enrollment.issue_token()
    await enrollment.redeem(token, "i-far", "k" * 40)
    assert await enrollment.allowed_keys() == {"k" * 40}
    for bad in (token, "made up"):
        with pytest.raises(AuthFailed):
            await enrollment.redeem(bad, "i-other", "o" * 40)
    await until(lambda: "k" * 40 in house.manager.fleet.allowed_keys)
