"""Whatever is lost, doubled or reordered: book and agent agree in the end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from backendai.core.lifecycle import (
    STARTING,
    AgentGone,
    Broke,
    Creating,
    DeadlinePassed,
    Deadlines,
    DestroyWanted,
    Effect,
    Ended,
    Event,
    KernelState,
    Missing,
    Preparing,
    Pulling,
    RestartWanted,
    Scheduled,
    Started,
    StartFailed,
    enqueued,
    refuses_destroy,
    session_announcement,
    session_status,
    step,
)
from backendai.core.session import DEAD, SessionStatus

S = SessionStatus
BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
DEADLINES = Deadlines(timedelta(days=7), timedelta(minutes=2), timedelta(minutes=1))

EVENTS: list[Event] = [
    Scheduled(),
    Preparing(),
    Pulling("image"),
    Creating(),
    Started(),
    StartFailed("no-sandbox", "x"),
    Ended("self-terminated", 1),
    DestroyWanted(),
    DestroyWanted(forced=True),
    RestartWanted(),
    Broke("agent-error (x)"),
    Missing(),
    AgentGone(),
    DeadlinePassed(),
]
#: Pairs of an event and the seconds that pass before it.
histories = st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 100)), max_size=40)


def play(history: list[tuple[Event, int]]) -> tuple[KernelState, datetime, list[KernelState]]:
    now = BEGIN
    state = enqueued(now, DEADLINES)
    passed = [state]
    for event, seconds in history:
        now += timedelta(seconds=seconds)
        state = step(state, event, now, DEADLINES).state
        passed.append(state)
    return state, now, passed


@given(histories)
@settings(max_examples=500, deadline=None)
def test_the_end_is_final_and_releases_exactly_once(history: list[tuple[Event, int]]) -> None:
    now = BEGIN
    state = enqueued(now, DEADLINES)
    released = 0
    for event, seconds in history:
        now += timedelta(seconds=seconds)
        taken = step(state, event, now, DEADLINES)
        if state.status in DEAD:
            assert taken.state == state
        released += taken.effects.count(Effect.RELEASE)
        state = taken.state
    assert released == (state.status in DEAD)


@given(histories.filter(lambda history: (DestroyWanted(forced=True)) not in [e for e, _ in history]))
@settings(max_examples=500, deadline=None)
def test_doubling_every_event_but_the_use_of_force_changes_nothing(history: list[tuple[Event, int]]) -> None:
    doubled = [each for event, seconds in history for each in ((event, seconds), (event, 0))]
    assert play(doubled)[0] == play(history)[0]


@given(histories)
@settings(max_examples=500, deadline=None)
def test_every_state_that_waits_has_a_deadline_and_leaves_at_it(history: list[tuple[Event, int]]) -> None:
    state, _, passed = play(history)
    for each in passed:
        waits = each.status not in DEAD and each.status not in (S.RUNNING, S.ERROR)
        assert (each.deadline is not None) == waits
    for _ in range(3):  # at most RESTARTING, TERMINATING, TERMINATED
        if state.deadline is None:
            break
        left = step(state, DeadlinePassed(), state.deadline, DEADLINES).state
        assert left.status is not state.status
        state = left
    assert state.deadline is None


@given(histories)
@settings(max_examples=300, deadline=None)
def test_a_start_has_one_deadline_however_many_steps_it_takes(history: list[tuple[Event, int]]) -> None:
    _, _, passed = play(history)
    for before, after in pairwise(passed):
        if before.status in STARTING and after.status in STARTING:
            assert after.deadline == before.deadline


@given(histories, st.booleans())
@settings(max_examples=500, deadline=None)
def test_sweeps_bring_book_and_agent_together(history: list[tuple[Event, int]], lives: bool) -> None:
    """``lives``: whether the agent has the kernel. The sweep tells, gives the orders, and looks again."""
    state, now, _ = play(history)
    for _ in range(6):
        now += timedelta(days=8)
        event: Event = DeadlinePassed()
        if state.deadline is None or now < state.deadline or (state.status in STARTING and lives):
            event = Started() if lives else Missing()
        taken = step(state, event, now, DEADLINES)
        if Effect.DESTROY in taken.effects:
            lives = False
        state = taken.state
    if lives:
        assert state.status is S.RUNNING
    else:
        assert state.status in DEAD


def test_the_way_a_kernel_usually_goes() -> None:
    way: list[Event] = [Scheduled(), Preparing(), Pulling("i"), Creating(), Started()]
    way += [RestartWanted(), Started(), DestroyWanted(), Ended("x", 0)]
    state = enqueued(BEGIN, DEADLINES)
    statuses = []
    announced: list[str] = []
    for event in way:
        taken = step(state, event, BEGIN, DEADLINES)
        state = taken.state
        statuses.append(state.status)
        announced += taken.announce
    assert statuses == [
        S.SCHEDULED,
        S.PREPARING,
        S.PULLING,
        S.PREPARING,
        S.RUNNING,
        S.RESTARTING,
        S.RUNNING,
        S.TERMINATING,
        S.TERMINATED,
    ]
    assert announced == [
        "kernel_preparing",
        "kernel_pulling",
        "kernel_creating",
        "kernel_started",
        "kernel_started",
        "kernel_terminating",
        "kernel_terminated",
    ]
    assert state.reason == "user-requested"


def test_a_kernel_that_starts_after_its_end_is_to_be_destroyed() -> None:
    dead = KernelState(S.CANCELLED, BEGIN)
    assert step(dead, Started(), BEGIN, DEADLINES).effects == (Effect.DESTROY,)


def test_what_may_be_destroyed() -> None:
    assert refuses_destroy(S.RUNNING, forced=False) is None
    assert refuses_destroy(S.PENDING, forced=False) is None
    assert "pulling" in (refuses_destroy(S.PULLING, forced=True) or "")
    assert refuses_destroy(S.PREPARING, forced=False) is not None
    assert refuses_destroy(S.PREPARING, forced=True) is None


def test_a_session_is_as_far_as_its_slowest_kernel() -> None:
    assert session_status([S.RUNNING, S.PREPARING]) is S.PREPARING
    assert session_status([S.RUNNING, S.RUNNING]) is S.RUNNING
    assert session_status([S.RUNNING, S.TERMINATED]) is S.TERMINATING
    assert session_status([S.CANCELLED, S.TERMINATED]) is S.TERMINATED
    assert session_status([S.CANCELLED, S.CANCELLED]) is S.CANCELLED
    assert session_status([S.ERROR, S.RUNNING]) is S.ERROR
    assert session_announcement(S.PREPARING, S.RUNNING) == "session_started"
    assert session_announcement(S.RUNNING, S.RUNNING) is None
