from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from backendai.supervision.batching import Batcher, SharedReads


class Slow:
    """Doubles numbers, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gates = [trio.Event() for _ in range(10)]

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.gates[len(self.batches) - 1].wait()
        if 13 in numbers:
            raise ValueError("unlucky")
        return [2 * number for number in numbers]


async def test_questions_gather_while_one_is_asked(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slow()
    ask: Batcher[int, int] = Batcher(slow)
    answers: list[int] = []

    async def one(number: int) -> None:
        answers.append(await ask(number))

    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
        slow.gates[0].set()
        await trio.testing.wait_all_tasks_blocked()
        # The first asker has its answer, although others wait for theirs.
        assert answers == [2]
        nursery.start_soon(one, 4)
        await trio.testing.wait_all_tasks_blocked()
        slow.gates[1].set()
        slow.gates[2].set()
    assert slow.batches == [[1], [2, 3], [4]]
    assert sorted(answers) == [2, 4, 6, 8]
    assert ask.idle


async def test_errors_reach_the_whole_batch_and_no_other() -> None:
    slow = Slow()
    ask: Batcher[int, int] = Batcher(slow)
    for gate in slow.gates:
        gate.set()
    with pytest.raises(ValueError, match="unlucky"):
        await ask(13)
    assert await ask(1) == 2
    assert ask.idle


async def test_cancelled_asker_leaves_its_batch_to_the_others() -> None:
    slow = Slow()
    ask: Batcher[int, int] = Batcher(slow)
    answers: list[int] = []
    leader, follower = trio.CancelScope(), trio.CancelScope()

    async def one(number: int, scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await ask(number))

    async with trio.open_nursery() as nursery:
        for number, scope in ((0, trio.CancelScope()), (1, leader), (2, trio.CancelScope()), (3, follower)):
            nursery.start_soon(one, number, scope)
            await trio.testing.wait_all_tasks_blocked()
        slow.gates[0].set()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.batches[-1] == [1, 2, 3]
        follower.cancel()
        leader.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.batches[-1] == [2]
        slow.gates[2].set()
    assert sorted(answers) == [0, 4]
    assert ask.idle


async def test_last_asker_cancelled_leaves_it_idle() -> None:
    slow = Slow()
    ask: Batcher[int, int] = Batcher(slow)
    with trio.move_on_after(0):
        await ask(1)
    slow.gates[1].set()
    assert await ask(2) == 4


async def test_reads_are_shared_by_key_and_never_old() -> None:
    reads: list[str] = []
    gates = {"a": trio.Event(), "b": trio.Event()}

    async def read(key: str) -> int:
        reads.append(key)
        await gates[key].wait()
        return len(reads)

    shared: SharedReads[str, int] = SharedReads(read)
    found: list[tuple[str, int]] = []

    async def get(key: str) -> None:
        found.append((key, await shared.get(key)))

    async with trio.open_nursery() as nursery:
        for key in ("a", "a", "a", "b"):
            nursery.start_soon(get, key)
            await trio.testing.wait_all_tasks_blocked()
        assert reads == ["a", "b"]
        gates["b"].set()
        gates["a"].set()
    # The second and third came while the first was read, so that they share another read.
    assert sorted(reads) == ["a", "a", "b"]
    assert len(found) == 4
    assert not shared._lines
