"""A step that is done again and again, and can be called for early."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import trio


class Alarm:
    """Wakes one waiting task. Rings that nobody waited for are kept as one: the next wait returns at once."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


async def periodic(
    interval: timedelta,
    step: Callable[[], Awaitable[None]],
    *,
    name: str,
    wake: Alarm | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do ``step`` now and then ``interval`` after the end of the last one, or as soon as ``wake`` rings.

    A ring during a step leads to one more step right after it. Never returns unless cancelled; an error of
    the step ends the loop and travels up to the nursery that owns it, with a note naming the loop.
    """
    alarm = wake or Alarm()
    seconds = interval.total_seconds()
    task_status.started()
    while True:
        try:
            await step()
        except BaseException as error:
            error.add_note(f"in the periodic step {name!r}")
            raise
        with trio.move_on_after(seconds):
            await alarm.wait()
