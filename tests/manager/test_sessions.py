from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
import trio
from manager.conftest import FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import (
    BadRequest,
    Forbidden,
    InsufficientPrivilege,
    InvalidParameters,
    ObjectNotFound,
    QuotaExceeded,
    SessionAlreadyExists,
    TooManySessionsMatched,
)
from backendai.core.execution import CompletionRequest, RunMode, RunRequest
from backendai.core.session import ClusterMode, SessionStatus, SessionType


async def test_a_session_runs_as_soon_as_its_agent_says_so(house: House, agent: FakeAgent) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("first"))
    assert created.status == "RUNNING"
    assert created.created
    assert [port["name"] for port in created.service_ports] == ["ttyd"]
    record = await house.manager.sessions.info(house.user, "first")
    assert record.session_id == created.session_id
    assert record.status is SessionStatus.RUNNING
    assert record.occupied_slots == {"cpu": "1", "mem": str(1 << 30)}
    assert record.agent_id == "i-one"
    assert record.isolation == {"memory": "cgroup1"}
    spec = agent.kernels[created.session_id]
    assert spec.environ["BACKENDAI_SESSION_NAME"] == "first"
    assert spec.limits.memory == 1 << 30


async def test_round_trips_of_the_hot_paths(house: House, agent: FakeAgent) -> None:
    await house.create("first")
    database = house.manager.database
    record = await house.manager.sessions.resolve(house.user, "first")

    async def cost(call: Callable[[], Awaitable[object]]) -> int:
        """The least of some tries: the manager's loops ask as well."""
        counts = []
        for _ in range(10):
            before = database.round_trips
            await call()
            counts.append(database.round_trips - before)
        return min(counts)

    for ref in ("first", str(record.session_id)):
        assert await cost(lambda ref=ref: house.manager.sessions.info(house.user, ref)) == 1
    assert await cost(lambda: house.manager.accounts.credential(house.user.access_key)) == 0
    request = RunRequest(run_id="r", mode=RunMode.QUERY, code="1")
    assert await cost(lambda: house.manager.execution.run(house.user, "first", request)) == 1


async def test_without_waiting_it_is_pending(house: House) -> None:
    await house.add_agent(FakeAgent("i-one", mood="ignore"))
    assert await house.create("queued", enqueue_only=True) == "PENDING"
    assert await house.create("slow", max_wait=0.1) == "TIMEOUT"
    await until(lambda: _is(house, "slow", "PREPARING"))


async def _is(house: House, name: str, status: str) -> bool:
    return await house.status(name) == status


async def test_the_name_is_reused(house: House, agent: FakeAgent) -> None:
    first = await house.manager.sessions.create(house.user, house.user, wish("name"))
    again = await house.manager.sessions.create(house.user, house.user, wish("name"))
    assert not again.created
    assert again.session_id == first.session_id
    assert again.status == "RUNNING"
    with pytest.raises(SessionAlreadyExists) as caught:
        await house.create("name", reuse=False)
    assert caught.value.data == {"existingSessionId": str(first.session_id)}
    # another account's names are no concern of ours
    other = await house.manager.sessions.create(house.admin, house.admin, wish("name"))
    assert other.created


async def test_many_at_once_with_one_name_get_one_session(house: House, agent: FakeAgent) -> None:
    made = []

    async def create() -> None:
        made.append(await house.manager.sessions.create(house.user, house.user, wish("same")))

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(create)
    assert len({each.session_id for each in made}) == 1
    assert sum(each.created for each in made) == 1


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"name": "abc"}, InvalidParameters, "Input validation"),
        ({"name": "-abcd"}, InvalidParameters, "Input validation"),
        ({"name": "from-template"}, InvalidParameters, "Input validation"),
        ({"image": "cobol"}, ObjectNotFound, "cobol"),
        ({"domain": "nowhere"}, BadRequest, "Invalid domain"),
        ({"project": "nowhere"}, BadRequest, "Invalid group"),
        ({"cluster_size": 99}, QuotaExceeded, "more than"),
        ({"scaling_group": "nowhere"}, ObjectNotFound, "nowhere"),
        ({"mounts": ("data",)}, ObjectNotFound, "no folders yet: data"),
        ({"environ": {"A": "\0"}}, InvalidParameters, "NUL"),
        ({"resources": {"gpu": 1}}, InvalidParameters, "Unknown requested resource slot"),
        ({"dependencies": ("nobody",)}, InvalidParameters, "dependency list"),
        ({"type": SessionType.BATCH}, InvalidParameters, "startup command"),
        ({"agent_list": ("i-one",)}, InsufficientPrivilege, "choose agents"),
    ],
)
async def test_refusals(
    house: House, agent: FakeAgent, more: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await house.create(**{"name": "fine", **more})  # type: ignore[arg-type]
    assert await house.manager.database.fetchval("SELECT count(*) FROM sessions") == 0


async def test_superadmins_may_choose_agents(house: House, agent: FakeAgent) -> None:
    two = await house.add_agent(FakeAgent("i-two", slots={"cpu": "1", "mem": str(2 << 30)}))
    chosen = wish("chosen", agent_list=("i-two",))
    created = await house.manager.sessions.create(house.admin, house.admin, chosen)
    assert created.session_id in two.kernels
    with pytest.raises(InvalidParameters, match="No such agent: i-none"):
        await house.manager.sessions.create(house.admin, house.admin, wish("none", agent_list=("i-none",)))


async def test_what_a_reference_means(house: House, agent: FakeAgent) -> None:
    sessions = house.manager.sessions
    one = await sessions.create(house.user, house.user, wish("alpha_1"))
    await sessions.create(house.user, house.user, wish("alphax2"))
    for ref in ("alpha_1", "alpha_", str(one.session_id)):
        assert (await sessions.resolve(house.user, ref)).session_id == one.session_id
    # Eight digits are enough of a UUID, whatever else there is.
    assert (await sessions.resolve(house.user, str(one.session_id)[:8])).session_id == one.session_id
    with pytest.raises(TooManySessionsMatched) as caught:
        await sessions.resolve(house.user, "alpha")
    assert {match["name"] for match in caught.value.data["matches"]} == {"alpha_1", "alphax2"}
    for ref in ("beta", "%", "alpha%", "a\0", str(UUID(int=0)), ""):
        with pytest.raises(ObjectNotFound if ref else TooManySessionsMatched):
            await sessions.resolve(house.user, ref)
    with pytest.raises(ObjectNotFound):
        await sessions.resolve(house.admin, "alpha_1")


async def test_a_name_used_twice_means_the_newest(house: House, agent: FakeAgent) -> None:
    sessions = house.manager.sessions
    await house.create("twice")
    await sessions.destroy(house.user, house.user, "twice")
    await until(lambda: _is(house, "twice", "TERMINATED"))
    with pytest.raises(ObjectNotFound):
        await sessions.resolve(house.user, "twice")
    second = await sessions.create(house.user, house.user, wish("twice"))
    assert second.created
    assert (await sessions.resolve(house.user, "twice", stale=True)).session_id == second.session_id
    assert len(await sessions.match(house.user, "twice")) == 1


async def test_destroying(house: House, agent: FakeAgent) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("doomed"))
    stats = await house.manager.sessions.destroy(house.user, house.user, "doomed")
    assert stats["status"] == "terminated"
    assert stats["version"] == 2
    assert stats["cpu_used"]["current"] == "6"
    await until(lambda: _is(house, "doomed", "TERMINATED"))
    assert not agent.kernels
    record = await house.manager.sessions.info(house.user, str(created.session_id), stale=True)
    assert record.status_info == "user-requested"
    assert record.terminated_at is not None
    assert record.last_stat is not None
    assert record.last_stat.cpu_used == 7.0
    assert await house.manager.execution.logs(house.user, "doomed") == "said so\n"
    open_rows = "SELECT count(*) FROM allocations WHERE ended_at IS NULL"
    assert await house.manager.database.fetchval(open_rows) == 0
    assert await house.manager.database.fetchval("SELECT count(*) FROM allocations") == 2


async def test_destroying_what_does_not_run(house: House) -> None:
    sessions = house.manager.sessions
    await house.add_agent(FakeAgent("i-one", mood="ignore"))
    await house.create("pending", enqueue_only=True, resources={"cpu": 99})
    assert await sessions.destroy(house.user, house.user, "pending") == {"status": "cancelled"}
    assert await house.status("pending") == "CANCELLED"
    await house.create("stuck", max_wait=0.1)
    await until(lambda: _is(house, "stuck", "PREPARING"))
    with pytest.raises(Forbidden, match="preparing"):
        await sessions.destroy(house.user, house.user, "stuck")
    with pytest.raises(InsufficientPrivilege):
        await sessions.destroy(house.user, house.user, "stuck", forced=True)
    stats = await sessions.destroy(house.admin, house.user, "stuck", forced=True)
    assert stats["status"] == "terminated"
    record = await sessions.resolve(house.user, "stuck", stale=True)
    assert (record.status, record.status_info) == (SessionStatus.TERMINATED, "force-terminated")


async def test_destroying_recursively(house: House, agent: FakeAgent) -> None:
    await house.create("base")
    await house.create("next", dependencies=("base",), enqueue_only=True)
    await house.create("last", dependencies=("next",), enqueue_only=True)
    await house.manager.sessions.destroy(house.user, house.user, "base", recursive=True)
    for name in ("next", "last"):
        assert await house.status(name) == "CANCELLED"
    await until(lambda: _is(house, "base", "TERMINATED"))


async def test_renaming(house: House, agent: FakeAgent) -> None:
    sessions = house.manager.sessions
    await house.create("before")
    await house.create("other")
    await sessions.rename(house.user, "before", "after")
    assert await house.status("after") == "RUNNING"
    with pytest.raises(SessionAlreadyExists):
        await sessions.rename(house.user, "after", "other")
    with pytest.raises(InvalidParameters):
        await sessions.rename(house.user, "after", "x")
    await house.create("waits", dependencies=("other",), enqueue_only=True)
    with pytest.raises(BadRequest, match="Can't change name"):
        await sessions.rename(house.user, "waits", "moves")


async def test_restarting(house: House, agent: FakeAgent) -> None:
    await house.create("again")
    await house.manager.sessions.restart(house.user, "again")
    assert await house.status("again") == "RUNNING"
    history = await house.manager.database.fetch("SELECT status FROM session_status_history ORDER BY id")
    assert [row["status"] for row in history] == [
        "PENDING",
        "SCHEDULED",
        "PREPARING",
        "RUNNING",
        "RESTARTING",
        "RUNNING",
    ]


async def test_a_cluster_runs_when_all_its_kernels_do_and_ends_with_the_first(
    house: House, agent: FakeAgent
) -> None:
    created = await house.manager.sessions.create(house.user, house.user, wish("many", cluster_size=3))
    assert created.status == "RUNNING"
    specs = agent.kernels.values()
    assert {(spec.cluster_role, spec.cluster_idx) for spec in specs} == {("main", 1), ("sub", 1), ("sub", 2)}
    assert {spec.environ["BACKENDAI_CLUSTER_REPLICAS"] for spec in specs} == {"main:1,sub:2"}
    assert {tuple(member.hostname for member in spec.cluster) for spec in specs} == {
        ("main1", "sub1", "sub2")
    }
    assert not any(member.peer for spec in specs for member in spec.cluster)
    sub = next(spec for spec in specs if spec.cluster_role == "sub")
    agent.end(sub.kernel_id, "self-terminated", 1)
    await until(lambda: _is(house, "many", "TERMINATED"))
    await until(lambda: not agent.kernels)


async def test_agents_are_told_of_each_other_by_a_session_that_is_spread(
    house: House, agent: FakeAgent
) -> None:
    second = await house.add_agent(FakeAgent("i-two"))
    spread = {"cluster_size": 2, "cluster_mode": ClusterMode.MULTI_NODE}
    await house.create("spread", resources={"cpu": "5", "mem": "1g"}, **spread)
    told = {each.agent_id: list(each.kernels.values()) for each in (agent, second)}
    for own, other in (("i-one", "i-two"), ("i-two", "i-one")):
        (spec,) = told[own]
        peers = {member.hostname: member.peer for member in spec.cluster}
        assert peers.pop(spec.cluster_hostname) is None
        (peer,) = peers.values()
        assert peer is not None
        assert peer.endpoint == f"tcp://{other}:6002"


async def test_the_outcome_of_a_batch_session(house: House, agent: FakeAgent) -> None:
    for name, exit_code, result in (("good", 0, "success"), ("bad-one", 3, "failure")):
        batch = wish(name, type=SessionType.BATCH, startup_command="true")
        created = await house.manager.sessions.create(house.user, house.user, batch)
        agent.end(created.session_id, "task-finished", exit_code)
        await until(lambda name=name: _is(house, name, "TERMINATED"))
        record = await house.manager.sessions.resolve(house.user, name, stale=True)
        assert record.result == result
        assert record.status_info == "task-finished"


async def test_running_code_goes_to_the_agent(house: House, agent: FakeAgent) -> None:
    execution = house.manager.execution
    await house.create("worker")
    reply = await execution.run(house.user, "worker", RunRequest(run_id="r1", mode=RunMode.QUERY, code="1"))
    assert (reply.run_id, reply.exit_code) == ("r1", 0)
    assert await execution.complete(house.user, "worker", CompletionRequest(code="pri")) == ("print",)
    assert await execution.logs(house.user, "worker") == "said so\n"
    await until(lambda: _counted(house))
    await house.manager.sessions.destroy(house.user, house.user, "worker")
    await until(lambda: _is(house, "worker", "TERMINATED"))
    with pytest.raises(ObjectNotFound):
        await execution.run(house.user, "worker", RunRequest(run_id="r2", mode=RunMode.QUERY))
    gone = await execution.run(house.user, "worker", RunRequest(run_id="r1", mode=RunMode.CONTINUE))
    assert (gone.status, gone.exit_code, gone.items) == ("finished", 130, ())


async def _counted(house: House) -> bool:
    await house.manager.execution.flush_queries()
    return (await house.manager.sessions.resolve(house.user, "worker")).num_queries == 1


async def test_the_reason_for_waiting_is_told(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 1")
    await house.create("first")
    await house.create("second", enqueue_only=True)

    async def told() -> bool:
        record = await house.manager.sessions.resolve(house.user, "second")
        return record.status_info == "predicate-checks-failed"

    await until(told)
    record = await house.manager.sessions.resolve(house.user, "second")
    assert record.status_data is not None
    scheduler = record.status_data["scheduler"]
    assert [each["name"] for each in scheduler["failed_predicates"]] == ["concurrency"]
    assert scheduler["retries"] >= 1
    await house.manager.sessions.destroy(house.user, house.user, "first")
    await until(lambda: _is(house, "second", "RUNNING"))
