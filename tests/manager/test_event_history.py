"""No event is lost or told twice, whatever breaks between."""

from __future__ import annotations

import random
from datetime import timedelta

import trio
from manager.conftest import FakeAgent, House, open_house, until, wish

from backendai.bridges.postgres import Database, open_database
from backendai.core.kernel import KernelFacts, ServicePort
from backendai.core.session import SessionEvent
from backendai.manager.cursors import StreamCursors
from backendai.manager.events import EventFilter, EventService
from backendai.manager.settings import ManagerSettings
from backendai.storage import events as store
from backendai.storage.seed import FirstAccounts

SESSION = EventFilter(levels=frozenset({"session"}))
LIFE = ["session_enqueued", "session_scheduled", "session_started"]


async def take(feed: object, number: int) -> list[SessionEvent]:
    with trio.fail_after(5):
        return [await anext(feed) for _ in range(number)]  # type: ignore[call-overload]


async def destroy(house: House, name: str) -> None:
    await house.manager.sessions.destroy(house.user, house.user, name)
    await until(lambda: _is_over(house, name))


async def _is_over(house: House, name: str) -> bool:
    return await house.status(name) == "TERMINATED"


async def test_who_sees_an_event_sees_all_before_it(
    house: House, agent: FakeAgent, database: Database
) -> None:
    """Many write at once, with and without waiting for the disk; one reads all the time."""
    seen: list[int] = []

    async def read(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            page = await store.after(database, seen[-1] if seen else 0)
            seen.extend(notice.event.id for notice in page)

    async def all_seen() -> bool:
        written: int = await database.fetchval("SELECT count(*) FROM session_events")
        return len(seen) == written

    async def live(number: int) -> None:
        await trio.sleep(random.random() * 0.05)
        await house.create(f"life-{number}", resources={"cpu": "0.1", "mem": "128m"})
        await house.manager.sessions.destroy(house.user, house.user, f"life-{number}")

    async with trio.open_nursery() as nursery:
        await nursery.start(read)
        async with trio.open_nursery() as writers:
            for number in range(25):
                writers.start_soon(live, number)
        await until(lambda: not agent.kernels)
        await until(lambda: _all_over(database))
        await until(all_seen)
        nursery.cancel_scope.cancel()
    rows = await database.fetch("SELECT id FROM session_events ORDER BY id")
    assert seen == [row["id"] for row in rows]
    assert len(seen) >= 25 * 8


async def _all_over(database: Database) -> bool:
    live = await database.fetchval("SELECT count(*) FROM sessions WHERE status <> 'TERMINATED'")
    return live == 0


async def test_reading_on_from_an_event(house: House, agent: FakeAgent) -> None:
    async with house.manager.events.subscribe(house.user, SESSION) as feed:
        await house.create("first")
        first = await take(feed, 3)
    assert [event.name for event in first] == LIFE
    await destroy(house, "first")
    async with house.manager.events.subscribe(house.user, SESSION, after=first[1].id) as feed:
        assert feed.complete
        missed = await take(feed, 2)
        await house.create("second")
        later = await take(feed, 3)
    assert [(event.name, event.session_name) for event in missed] == [
        ("session_started", "first"),
        ("session_terminated", "first"),
    ]
    assert [event.name for event in later] == LIFE
    ids = [event.id for event in (*first, missed[1], *later)]
    assert ids == sorted(ids)


async def test_more_is_missed_than_fits_into_one_page(
    house: House, agent: FakeAgent, database: Database
) -> None:
    await house.create("chatty")
    count = 3 * store.PAGE + 7
    await database.execute(
        "INSERT INTO session_events (notice) SELECT e.notice FROM session_events e, generate_series(1, $1)"
        " WHERE e.notice #>> '{event,name}' = 'session_started'",
        count,
    )
    async with house.manager.events.subscribe(house.user, SESSION, after=0) as feed:
        events = await take(feed, 3 + count)
        await house.create("after-it")
        assert [event.name for event in await take(feed, 3)] == LIFE
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))


async def test_a_reader_that_comes_back_goes_on_where_it_was(house: House, agent: FakeAgent) -> None:
    events = house.manager.events
    async with events.subscribe(house.user, SESSION, reader="its signature") as feed:
        await house.create("watched")
        await take(feed, 3)
    await destroy(house, "watched")
    async with events.subscribe(house.user, SESSION, reader="its signature") as feed:
        # The last event may not have arrived, so it comes again.
        assert [event.name for event in await take(feed, 2)] == ["session_started", "session_terminated"]
    async with events.subscribe(house.user, SESSION, reader="another") as feed:
        await house.create("new-one")
        assert (await take(feed, 1))[0].session_name == "new-one"


async def test_another_process_takes_a_reader_over(
    settings: ManagerSettings, accounts: FirstAccounts, asyncio_loop: None
) -> None:
    async with open_house(settings, accounts) as house:
        await house.add_agent(FakeAgent("i-one"))
        async with house.manager.events.subscribe(house.user, SESSION, reader="mine") as feed:
            await house.create("survives")
            await take(feed, 3)
            await house.manager.sessions.destroy(house.user, house.user, "survives")
            await until(lambda: _is_over(house, "survives"))
    async with (
        open_house(settings, accounts) as house,
        house.manager.events.subscribe(house.user, SESSION, reader="mine") as feed,
    ):
        assert [event.name for event in await take(feed, 2)] == ["session_started", "session_terminated"]


async def test_events_while_nobody_listens_are_made_up_for(
    house: House, agent: FakeAgent, database: Database, error_logs_expected: None
) -> None:
    async with house.manager.events.subscribe(house.user, SESSION) as feed:
        await house.create("before")
        await take(feed, 3)
        await database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )
        await until(lambda: not house.manager.board.listening)
        await house.manager.sessions.create(house.user, house.user, wish("between", enqueue_only=True))
        events = await take(feed, 3)
    assert [(event.name, event.session_name) for event in events] == [(name, "between") for name in LIFE]


async def test_what_is_too_old_is_said_to_be_gone(house: House, agent: FakeAgent, database: Database) -> None:
    await house.create("ancient")
    first = (await store.horizon(database)).first
    await database.execute("UPDATE session_events SET at = at - interval '2 days'")
    await house.create("recent")
    old = EventService(
        database, house.manager.board, StreamCursors(house.manager.rate._redis), timedelta(days=1)
    )
    await old.prune()
    horizon = await store.horizon(database)
    assert first < horizon.first <= horizon.last
    for after, complete in ((first, False), (horizon.first - 1, True), (horizon.last, True), (10**9, False)):
        async with house.manager.events.subscribe(house.user, SESSION, after=after) as feed:
            assert feed.complete is complete
    await database.execute("DELETE FROM session_events")
    assert (await store.horizon(database)).first == horizon.last + 1


async def test_an_event_too_long_to_be_sent_whole_is_written_whole(
    house: House, agent: FakeAgent, database: Database
) -> None:
    many = tuple(ServicePort(name=f"port-{n}", protocol="preopen", ports=(n,)) for n in range(2000, 2400))
    plain = agent.facts

    def facts(spec: object) -> KernelFacts:
        import msgspec

        return msgspec.structs.replace(plain(spec), service_ports=many)  # type: ignore[arg-type]

    agent.facts = facts  # type: ignore[method-assign,assignment]
    assert await house.create("portly") == "RUNNING"
    record = await house.manager.sessions.resolve(house.user, "portly")
    assert len(record.service_ports) == 400


async def test_events_and_changes_come_true_together(
    house: House, agent: FakeAgent, database_url: str
) -> None:
    """A transaction that is rolled back leaves no event, and none is told before the commit."""
    await house.create("steady")
    async with (
        open_database(database_url) as other,
        house.manager.events.subscribe(house.user, SESSION) as feed,
    ):
        try:
            async with other.transaction() as connection:
                await connection.execute(
                    "INSERT INTO session_events (notice) SELECT notice FROM session_events LIMIT 1"
                )
                raise RuntimeError("changed its mind")
        except RuntimeError:
            pass
        await house.create("next-one")
        assert {event.session_name for event in await take(feed, 3)} == {"next-one"}
