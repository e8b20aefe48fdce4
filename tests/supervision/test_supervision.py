"""The Trio tools: who ends when, and which error comes out."""

from __future__ import annotations

import os
import resource
import signal
from datetime import timedelta

import pytest
import trio
import trio.testing

from backendai.supervision.broadcast import Broadcast, SubscriberTooSlow
from backendai.supervision.containment import Containment
from backendai.supervision.descriptors import allow_many_descriptors
from backendai.supervision.periodic import Alarm, periodic
from backendai.supervision.service import open_service
from backendai.supervision.signals import wait_for_stop_signal


async def test_service_answers_while_its_user_is_being_cancelled() -> None:
    log: list[str] = []

    async def run(*, task_status: trio.TaskStatus[trio.abc.SendChannel[str]]) -> None:
        send, receive = trio.open_memory_channel[str](0)
        task_status.started(send)
        try:
            async for item in receive:
                log.append(item)
        finally:
            log.append("stopped")

    with trio.CancelScope() as scope:
        async with open_service(run, name="log") as channel:
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await channel.send("last words")
    assert log == ["last words", "stopped"]


async def test_service_start_can_be_cancelled_and_may_fail() -> None:
    async def never(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    async def broken(*, task_status: trio.TaskStatus[None]) -> None:
        raise LookupError

    with trio.move_on_after(0.01) as timeout:
        async with open_service(never, name="never"):
            pass
    assert timeout.cancelled_caught
    with pytest.RaisesGroup(LookupError):
        async with open_service(broken, name="broken"):
            pass


async def test_body_error_is_bare_and_service_error_cancels_the_body() -> None:
    async def idle(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def failing(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise LookupError

    async def failing_at_the_end(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError

    with pytest.raises(KeyError):
        async with open_service(idle, name="idle"):
            raise KeyError
    with pytest.RaisesGroup(LookupError):
        async with open_service(failing, name="failing"):
            await trio.sleep_forever()
    with pytest.RaisesGroup(KeyError, pytest.RaisesGroup(LookupError)):
        async with open_service(failing_at_the_end, name="failing"):
            raise KeyError


async def test_periodic_keeps_time_and_hears_the_alarm(autojump_clock: trio.testing.MockClock) -> None:
    times: list[float] = []
    alarm = Alarm()
    begin = trio.current_time()

    async def step() -> None:
        times.append(trio.current_time() - begin)
        if len(times) == 2:
            alarm.ring()
            alarm.ring()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: periodic(timedelta(seconds=10), step, name="step", wake=alarm))
        await trio.sleep(25)
        alarm.ring()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert times == [0, 10, 10, 20, 25]


async def test_periodic_error_names_the_loop() -> None:
    async def step() -> None:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        await periodic(timedelta(seconds=1), step, name="sweep")
    assert "sweep" in caught.value.__notes__[0]


async def test_broadcast_cuts_the_slow_and_ends_at_close() -> None:
    feed = Broadcast[int]()
    with feed.subscribe(limit=2) as slow, feed.subscribe() as quick:
        for number in range(3):
            feed.publish(number)
        assert [await anext(slow), await anext(slow)] == [0, 1]
        with pytest.raises(SubscriberTooSlow):
            await anext(slow)
        feed.close()
        assert [number async for number in quick] == [0, 1, 2]
    with feed.subscribe() as late:
        assert [number async for number in late] == []


async def test_broadcast_wakes_a_waiting_reader() -> None:
    feed = Broadcast[int]()
    got: list[int] = []
    with feed.subscribe() as subscription:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                got.append(await anext(subscription))

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            feed.publish(7)
    assert got == [7]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_signal(number: signal.Signals) -> None:
    got: list[signal.Signals] = []

    async def wait(*, task_status: trio.TaskStatus[None]) -> None:
        got.append(await wait_for_stop_signal(task_status=task_status))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(wait)
            os.kill(os.getpid(), number)
    assert got == [number]


def test_a_process_may_open_what_the_system_admits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert allow_many_descriptors() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_containment_ends_a_bug_and_lets_others_pass() -> None:
    told: list[dict[str, object]] = []

    def report(event: str, **what: object) -> None:
        told.append({"event": event, **what})

    bug = LookupError()
    with Containment(report, "failed", request="r1") as contained:
        raise bug
    assert contained.error is bug
    assert told == [{"event": "failed", "exc_info": bug, "request": "r1"}]
    with pytest.raises(KeyError), Containment(report, "failed", passing=(KeyError,)):
        raise KeyError
    with trio.CancelScope() as scope, Containment(report, "failed"):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert len(told) == 1
