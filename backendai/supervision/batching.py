"""Asking together what many tasks ask at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

Q = TypeVar("Q")
A = TypeVar("A")
K = TypeVar("K")
V = TypeVar("V")


class _Asked(Generic[Q, A]):
    __slots__ = ("answer", "error", "left", "question", "turn")

    def __init__(self, question: Q) -> None:
        self.question = question
        #: Set when it is answered, or when its task shall ask for all who wait by then.
        self.turn = trio.Event()
        self.answer: A | None = None
        self.error: Exception | None = None
        #: Its task was cancelled and wants no answer any more.
        self.left = False


class Batcher(Generic[Q, A]):
    """Questions that come while an answer is under way wait for it, and are then asked all at once.

    ``ask`` takes the questions of a batch and returns their answers in order; what it raises, every asker of
    the batch gets. An answer is never older than its question. Each batch is asked by the task of one of its
    askers; when that is cancelled, the rest of the batch is asked again.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask = ask
        self._waiting: list[_Asked[Q, A]] = []
        self._busy = False

    @property
    def idle(self) -> bool:
        return not self._busy

    async def __call__(self, question: Q) -> A:
        mine: _Asked[Q, A] = _Asked(question)
        self._waiting.append(mine)
        if self._busy:
            try:
                await mine.turn.wait()
            except trio.Cancelled:
                mine.left = True
                raise
        if mine in self._waiting:
            await self._ask_for_all(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]  # None only if that is the answer

    async def _ask_for_all(self, mine: _Asked[Q, A]) -> None:
        self._busy = True
        batch = [each for each in self._waiting if not each.left]
        self._waiting.clear()
        try:
            answers = await self._ask([each.question for each in batch])
            for each, answer in zip(batch, answers, strict=True):
                each.answer = answer
        except trio.Cancelled:
            batch.remove(mine)
            self._waiting[:0] = batch
            batch = []
            raise
        except Exception as error:
            for each in batch:
                each.error = error
        finally:
            for each in batch:
                each.turn.set()
            self._hand_over()

    def _hand_over(self) -> None:
        # To one of those who wait: this task has its own answer and must not be held up by theirs.
        for each in self._waiting:
            if not each.left:
                each.turn.set()
                return
        self._waiting.clear()
        self._busy = False


class SharedReads(Generic[K, V]):
    """Concurrent reads of the same thing are one; reads of different things do not wait for each other.

    A task gets what a read found that began after it asked. The value is shared: treat it as frozen.
    """

    def __init__(self, read: Callable[[K], Awaitable[V]]) -> None:
        self._read = read
        self._lines: dict[K, Batcher[K, V]] = {}

    async def get(self, key: K) -> V:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Batcher(self._read_once)
        try:
            return await line(key)
        finally:
            if line.idle:
                self._lines.pop(key, None)

    async def _read_once(self, keys: Sequence[K]) -> Sequence[V]:
        return [await self._read(keys[0])] * len(keys)
