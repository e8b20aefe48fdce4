"""Users are told why, in words they can act on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from manager.conftest import PYTHON, FakeAgent, House, until, wish

from backendai.bridges.postgres import Database
from backendai.core.errors import ObjectNotFound
from backendai.core.kernel import TASK_FINISHED
from backendai.core.session import ClusterMode, SessionType


async def explain(house: House, name: str, *, as_admin: bool = False) -> dict[str, Any]:
    requester = house.admin if as_admin else house.user
    return await house.manager.explain.explain(requester, house.user, name)


async def enter(house: House, name: str, **more: object) -> None:
    await house.manager.sessions.create(house.user, house.user, wish(name, enqueue_only=True, **more))


async def test_no_room(house: House, agent: FakeAgent) -> None:
    await house.add_agent(FakeAgent("i-two", slots={"cpu": "2", "mem": str(4 << 30)}))
    await house.create("fills-one", resources={"cpu": "6", "mem": "1g"})
    await enter(house, "too-wide", resources={"cpu": "4", "mem": "1g"})
    await enter(house, "next-one", resources={"cpu": "3", "mem": "1g"})
    told = await explain(house, "too-wide", as_admin=True)
    pending = told["pending"]
    assert (pending["position"], pending["queueLength"], pending["suitableAgents"]) == (1, 2, 2)
    assert pending["needs"] == {"cpu": "4", "mem": str(1 << 30)}
    # i-two is as close, but would not do even when it is empty
    assert pending["nearestFit"] == {"agent": "i-one", "missing": {"cpu": "2"}, "tooSmall": False}
    assert pending["blockedBy"] == [{"rule": "no-available-instances", "why": "No agent has enough free."}]
    assert (
        told["summary"] == "It waits: No agent has enough free. On the nearest cpu=2 would have to come free."
    )
    assert (await explain(house, "too-wide"))["pending"]["nearestFit"]["agent"] is None
    behind = await explain(house, "next-one")
    assert behind["pending"]["position"] == 2
    assert behind["pending"]["blockedBy"][0]["rule"] == "order"
    assert [each["status"] for each in behind["history"]] == ["PENDING"]


async def test_it_will_never_fit(house: House, agent: FakeAgent) -> None:
    await enter(house, "giant", resources={"cpu": "100", "mem": "1g"})
    told = await explain(house, "giant")
    assert told["pending"]["nearestFit"]["tooSmall"]
    assert told["summary"].startswith("It waits in vain: no agent is large enough, even empty.")


async def test_kernels_that_may_spread_need_less_room_each(house: House, agent: FakeAgent) -> None:
    await enter(
        house,
        "spread",
        resources={"cpu": "5", "mem": "1g"},
        cluster_size=2,
        cluster_mode=ClusterMode.MULTI_NODE,
    )
    told = await explain(house, "spread")
    assert told["pending"]["needs"]["cpu"] == "10"
    assert told["pending"]["nearestFit"] == {"agent": None, "missing": {}, "tooSmall": False}


async def test_no_agent_suits(house: House) -> None:
    await house.add_agent(FakeAgent("i-one", scaling_group="elsewhere"))
    await enter(house, "lonely")
    told = await explain(house, "lonely")
    assert told["pending"]["unsuitable"] == ["scaling group"]
    assert told["summary"] == "It waits: no agent can take it (scaling group)."


async def test_rules_that_block(house: House, agent: FakeAgent, database: Database) -> None:
    await database.execute("UPDATE keypair_resource_policies SET max_concurrent_sessions = 1")
    await house.create("only-one")
    await enter(house, "second")
    starts_at = datetime.now(UTC) + timedelta(days=1)
    batch = {"type": SessionType.BATCH, "startup_command": "true"}
    await enter(house, "third", **batch, starts_at=starts_at, dependencies=("second",))
    second, third = (await explain(house, "second"), await explain(house, "third"))
    assert second["pending"]["blockedBy"] == [
        {"rule": "concurrency", "why": "You cannot run more than 1 concurrent sessions"}
    ]
    rules = [each["rule"] for each in third["pending"]["blockedBy"]]
    assert rules == ["reserved_time", "concurrency", "dependencies"]
    assert third["pending"]["waitsFor"] == ["second"]
    assert third["pending"]["startsAt"] == starts_at
    assert third["pending"]["givesUpAt"] == starts_at + timedelta(days=7)


async def test_when_it_will_be_stopped(house: House, agent: FakeAgent, database: Database) -> None:
    await house.create("running")
    told = await explain(house, "running")
    (stop,) = told["stops"]
    assert stop["rule"] == "idle-timeout"
    assert f"{stop['at']:%H:%M:%S}" in told["summary"]
    await database.execute("UPDATE keypair_resource_policies SET max_session_lifetime = 60")
    assert [each["rule"] for each in (await explain(house, "running"))["stops"]] == [
        "idle-session_lifetime",
        "idle-timeout",
    ]
    await database.execute("UPDATE keypair_resource_policies SET max_session_lifetime = 0, idle_timeout = 0")
    assert (await explain(house, "running"))["summary"] == "It runs, and no rule will stop it."


async def test_why_it_ended(house: House, agent: FakeAgent) -> None:
    batch = wish("job-1", type=SessionType.BATCH, startup_command="false")
    created = await house.manager.sessions.create(house.user, house.user, batch)
    agent.end(created.session_id, TASK_FINISHED, 3)

    async def over() -> bool:
        return "ending" in await explain(house, "job-1")

    await until(over)
    told = await explain(house, "job-1")
    assert told["summary"] == ("It is TERMINATED because its command has ended, with exit code 3 (failure).")
    assert (told["ending"]["exitCode"], told["ending"]["result"]) == (3, "failure")
    assert [each["status"] for each in told["history"]] == [
        "PENDING",
        "SCHEDULED",
        "PREPARING",
        "RUNNING",
        "TERMINATED",
    ]


async def test_why_it_never_began(house: House, agent: FakeAgent) -> None:
    agent.mood = "fail"
    assert await house.create("stillborn") == "CANCELLED"
    told = await explain(house, "stillborn")
    assert told["summary"] == "It is CANCELLED because its kernel could not be started: bwrap: no."
    assert told["ending"]["error"]["name"] == "no-sandbox"


async def test_while_it_starts(house: House, agent: FakeAgent) -> None:
    agent.mood = "ignore"
    assert await house.create("slow-one", max_wait=0.2) == "TIMEOUT"
    told = await explain(house, "slow-one")
    assert told["summary"].startswith("It is being started. If that takes until")
    assert told["deadline"] is not None


async def test_only_the_owner_is_told(house: House, agent: FakeAgent) -> None:
    await house.create("mine-1")
    with pytest.raises(ObjectNotFound):
        await house.manager.explain.explain(house.admin, house.admin, "mine-1")


async def test_chronicle(house: House, agent: FakeAgent) -> None:
    chronicle = house.manager.chronicle
    await house.create("root-1")
    for name, needs in (("left", ("root-1",)), ("right", ("root-1",)), ("top-1", ("left", "right"))):
        await enter(house, name, dependencies=needs)
    tree = await chronicle.dependencies(house.user, "top-1")
    assert (tree.session.name, tree.session.status) == ("top-1", "PENDING")
    assert {each.session.name for each in tree.depends_on} == {"left", "right"}
    assert [each.depends_on[0].session.name for each in tree.depends_on] == ["root-1", "root-1"]
    passed = [each.status for each in await chronicle.history(house.user, "root-1")]
    assert passed == ["PENDING", "SCHEDULED", "PREPARING", "RUNNING"]
    root = tree.depends_on[0].depends_on[0].session.session_id
    asked = [root, tree.session.session_id, uuid4()]
    assert await chronicle.statuses(house.user, asked) == {root: "RUNNING", asked[1]: "PENDING"}
    other = await house.manager.sessions.create(house.admin, house.admin, wish("admins", image=PYTHON))
    assert await chronicle.statuses(house.user, [other.session_id]) == {}
    assert await chronicle.statuses(house.admin, [root]) == {root: "RUNNING"}
