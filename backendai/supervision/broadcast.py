"""One publisher, many subscribers, nobody waits for the slowest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class SubscriberTooSlow(Exception):
    """A subscriber fell so far behind that items for it had to be dropped."""


class Subscription(Generic[T]):
    """Asynchronous iterator over what was published since it was opened; ends when the broadcast is closed.

    Meant for one task. Cancelling a wait loses no item.
    """

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._overrun = False
        self._closed = False
        self._changed = trio.Event()

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> T:
        """Raises :exc:`SubscriberTooSlow` once the items kept until the overrun have been handed out."""
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._overrun:
                raise SubscriberTooSlow(f"fell more than {self._limit} items behind")
            if self._closed:
                raise StopAsyncIteration
            self._changed = trio.Event()
            await self._changed.wait()
        return self._items.popleft()

    def _put(self, item: T) -> None:
        if self._overrun:
            return
        if len(self._items) >= self._limit:
            self._overrun = True
        else:
            self._items.append(item)
        self._changed.set()

    def _close(self) -> None:
        self._closed = True
        self._changed.set()


class Broadcast(Generic[T]):
    def __init__(self) -> None:
        self._subscriptions: set[Subscription[T]] = set()
        self._closed = False

    def publish(self, item: T) -> None:
        """Give ``item`` to everyone subscribed now. Never blocks."""
        for subscription in self._subscriptions:
            subscription._put(item)

    @contextmanager
    def subscribe(self, limit: int = 1000) -> Iterator[Subscription[T]]:
        """Everything published within the body is kept, up to ``limit`` items not yet read."""
        subscription: Subscription[T] = Subscription(limit)
        if self._closed:
            subscription._close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription, present and future, after the items it still holds."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription._close()
