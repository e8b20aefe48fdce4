"""Throws away what has been kept for long enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import trio

from backendai.supervision.periodic import periodic

_INTERVAL = timedelta(minutes=1)


class Janitor:
    def __init__(self, duties: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._duties = duties

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do all duties now and every minute, until cancelled."""
        await periodic(_INTERVAL, self.clean, name="janitor", task_status=task_status)

    async def clean(self) -> None:
        for duty in self._duties:
            await duty()
