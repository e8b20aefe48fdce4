from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from backendai.core.placement import (
    AgentRoom,
    Limit,
    PendingKernel,
    PendingSession,
    Placed,
    Snapshot,
    Usage,
    Waiting,
    place,
)
from backendai.core.session import ClusterMode
from backendai.core.slots import Slots, add

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PROJECT = UUID(int=1)
NOTHING = Usage({}, {}, {}, {})


def slots(cpu: float, mem: float = 1) -> Slots:
    return {"cpu": Decimal(str(cpu)), "mem": Decimal(str(mem))}


def room(name: str, cpu: float = 4, mem: float = 4, **more: float) -> AgentRoom:
    free = {**slots(cpu, mem), **{slot.replace("_", "."): Decimal(str(n)) for slot, n in more.items()}}
    return AgentRoom(name, "default", "x86_64", free, frozenset({"python"}))


def pending(ordinal: int, *kernels: Slots, key: str = "a", **more: object) -> PendingSession:
    values: dict[str, object] = {
        "id": UUID(int=1000 + ordinal),
        "ordinal": ordinal,
        "priority": 0,
        "access_key": key,
        "project_id": PROJECT,
        "domain_name": "default",
        "scaling_group": "default",
        "architecture": "x86_64",
        "image": "python",
        "type": "interactive",
        "cluster_mode": ClusterMode.SINGLE_NODE,
        "kernels": tuple(PendingKernel(uuid4(), each) for each in kernels or (slots(1),)),
    }
    return PendingSession(**{**values, **more})  # type: ignore[arg-type]


def decide(
    sessions: list[PendingSession], agents: list[AgentRoom], usage: Usage = NOTHING
) -> dict[int, object]:
    decisions = place(Snapshot(sessions, agents, usage, NOW))
    by_id = {session.id: session.ordinal for session in sessions}
    return {by_id[decision.session_id]: decision for decision in decisions}


def test_the_roomiest_agent_gets_it() -> None:
    decided = decide([pending(1)], [room("small", 2), room("large", 8)])[1]
    assert isinstance(decided, Placed)
    assert set(decided.agents.values()) == {"large"}


def test_agents_with_devices_are_kept_for_those_who_ask() -> None:
    agents = [room("plain", 2), room("gpu", 64, cuda_device=4)]
    decided = decide([pending(1)], agents)[1]
    assert isinstance(decided, Placed)
    assert set(decided.agents.values()) == {"plain"}


def test_only_agents_that_suit_are_candidates() -> None:
    others = [
        AgentRoom("arm", "default", "aarch64", slots(9, 9), frozenset({"python"})),
        AgentRoom("group", "other", "x86_64", slots(9, 9), frozenset({"python"})),
        AgentRoom("image", "default", "x86_64", slots(9, 9), frozenset({"r"})),
    ]
    decided = decide([pending(1)], others)[1]
    assert isinstance(decided, Waiting)
    assert decided.why == "no-available-instances"
    assert "concurrency" in decided.passed


def test_who_has_least_running_comes_first() -> None:
    sessions = [pending(1, key="a"), pending(2, key="a"), pending(3, key="b")]
    decided = decide(sessions, [room("one", 2, 9)], Usage({"a": 1}, {}, {}, {}))
    assert isinstance(decided[3], Placed)
    assert isinstance(decided[1], Placed)
    assert isinstance(decided[2], Waiting)


def test_priority_comes_before_fairness() -> None:
    decided = decide([pending(1), pending(2, priority=5)], [room("one", 1)])
    assert isinstance(decided[2], Placed)
    assert isinstance(decided[1], Waiting)


def test_no_room_holds_up_the_own_account_only() -> None:
    sessions = [pending(1, slots(9)), pending(2, slots(1)), pending(3, slots(1), key="b")]
    decided = decide(sessions, [room("one")])
    assert isinstance(decided[1], Waiting)
    assert isinstance(decided[2], Waiting)
    assert isinstance(decided[3], Placed)


def test_every_reason_to_wait_is_told() -> None:
    session = pending(
        1,
        slots(2),
        starts_at=NOW + timedelta(hours=1),
        type="batch",
        unfinished=("before",),
        max_sessions=1,
        account_limit=Limit(slots(1), unspecified=False),
        project_limit=Limit({"cpu": Decimal(1)}),
        domain_limit=Limit({"cpu": Decimal(1)}),
        group_takes=None,
    )
    decided = decide([session], [room("one")], Usage({"a": 1}, {}, {}, {}))[1]
    assert isinstance(decided, Waiting)
    assert decided.why == "predicate-checks-failed"
    assert set(decided.failed) == {
        "reserved_time",
        "concurrency",
        "dependencies",
        "keypair_resource_limit",
        "user_group_resource_limit",
        "domain_resource_limit",
        "scaling_group_resource_limit",
    }


def test_a_cluster_goes_to_one_node_or_to_several() -> None:
    kernels = [slots(3), slots(3)]
    agents = [room("one"), room("two")]
    single = decide([pending(1, *kernels)], agents)[1]
    assert isinstance(single, Waiting)
    several = decide([pending(1, *kernels, cluster_mode=ClusterMode.MULTI_NODE)], agents)[1]
    assert isinstance(several, Placed)
    assert sorted(several.agents.values()) == ["one", "two"]


def test_kernels_spread_only_over_agents_with_a_link() -> None:
    kernels = [slots(3), slots(3)]
    one, two, alone = room("one"), room("two"), replace(room("alone", 9), linked=False)
    wish = pending(1, *kernels, cluster_mode=ClusterMode.MULTI_NODE)
    spread = decide([wish], [one, two, alone])[1]
    assert isinstance(spread, Placed)
    assert sorted(spread.agents.values()) == ["one", "two"]
    together = decide([wish], [one, alone])[1]
    assert isinstance(together, Placed)
    assert set(together.agents.values()) == {"alone"}
    assert isinstance(decide([wish], [one, replace(two, linked=False)])[1], Waiting)


def test_named_agents_go_to_the_kernels_in_order() -> None:
    wish = pending(1, slots(1), slots(1), cluster_mode=ClusterMode.MULTI_NODE, agents=("one", "two"))
    decided = decide([wish], [room("one"), room("two")])[1]
    assert isinstance(decided, Placed)
    assert [decided.agents[kernel.id] for kernel in wish.kernels] == ["one", "two"]
    cut = decide([wish], [room("one"), replace(room("two"), linked=False)])[1]
    assert isinstance(cut, Waiting)
    assert cut.failed == {
        "cluster_network": "The chosen agents have no link to each other. (--cluster-endpoint of two)"
    }


def test_a_cluster_waits_for_an_agent_that_can_give_it_a_network() -> None:
    without = replace(room("without", 9), joins=False)
    decided = decide([pending(1, slots(1), slots(1)), pending(2)], [without])
    assert isinstance(decided[2], Placed)
    assert isinstance(decided[1], Waiting)
    assert decided[1].failed.keys() == {"cluster_network"}
    both = decide([pending(1, slots(1), slots(1))], [without, room("with")])[1]
    assert isinstance(both, Placed)
    assert set(both.agents.values()) == {"with"}


def test_named_agents_are_kept_to() -> None:
    decided = decide([pending(1, agents=("small",))], [room("small", 1), room("large", 9)])[1]
    assert isinstance(decided, Placed)
    assert set(decided.agents.values()) == {"small"}


amounts = st.integers(1, 6).map(lambda n: slots(n, n))
wishes = st.lists(
    st.tuples(
        st.lists(amounts, min_size=1, max_size=3), st.sampled_from("abc"), st.sampled_from(list(ClusterMode))
    ),
    max_size=12,
)


@given(wishes, st.lists(amounts, max_size=4), st.integers(1, 8), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_what_is_placed_fits(
    wanted: list[tuple[list[Slots], str, ClusterMode]], rooms: list[Slots], quota: int, most: int
) -> None:
    sessions = [
        pending(
            number,
            *kernels,
            key=key,
            cluster_mode=mode,
            max_sessions=most,
            account_limit=Limit({"cpu": Decimal(quota)}),
        )
        for number, (kernels, key, mode) in enumerate(wanted)
    ]
    agents = [
        AgentRoom(str(number), "default", "x86_64", free, frozenset({"python"}))
        for number, free in enumerate(rooms)
    ]
    decided = decide(sessions, agents)
    assert len(decided) == len(sessions)
    for agent in agents:
        given_away = add(
            *(
                kernel.slots
                for session in sessions
                if isinstance(placed := decided[session.ordinal], Placed)
                for kernel in session.kernels
                if placed.agents[kernel.id] == agent.id
            )
        )
        assert all(amount <= agent.free[slot] for slot, amount in given_away.items())
    for key in "abc":
        mine = [s for s in sessions if s.access_key == key and isinstance(decided[s.ordinal], Placed)]
        assert len(mine) <= most
        assert add(*(s.total for s in mine)).get("cpu", 0) <= quota
