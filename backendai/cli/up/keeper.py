"""Keeps a process of ours running: gateway or agent under ``up``.

Both lose nothing when they die (the database knows the sessions, the runners keep the kernels), so one that
dies is started again, later each time. One that dies again and again, or does not come up at all, ends the
whole tree.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from backendai.embedded.child import Child, ChildSpec, describe_exit, log_tail, start_child, stopping

#: Seconds before the first start again; doubled for each that follows soon.
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0
#: A process that served this long is healthy, its earlier deaths are forgotten.
_HEALTHY_AFTER = 60.0
_MOST_DEATHS = 8
_START_WITHIN = 60.0
_LONGEST_ANNOUNCEMENT = 65536

Announcement = Mapping[str, Any]


class NotReady(Exception):
    """A process did not come to serve, or never for long."""


class Keeper:
    """``command(fd, first)`` tells how to start the process, which writes one JSON line to ``fd`` once it
    serves.

    ``first`` is what that line said the first time, so that ports chosen then stay; None until then.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[int, Announcement | None], ChildSpec],
        *,
        say: Callable[[str], None],
    ) -> None:
        self.name = name
        self._command = command
        self._say = say
        self._first: Announcement | None = None
        self._child: Child | None = None
        self._served = trio.Event()

    async def served(self) -> None:
        """Wait until the process serves for the first time."""
        await self._served.wait()

    @property
    def announced(self) -> Announcement:
        """What the process said of itself when it first served."""
        assert self._first is not None
        return self._first

    @property
    def pid(self) -> int:
        """The process that serves now, or served last."""
        assert self._child is not None
        return self._child.pid

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled, which stops the process. ``started`` at once: see :meth:`served`.

        Raises :class:`NotReady` when it does not come up at first, or it dies too often.
        """
        task_status.started()
        deaths = 0
        while True:
            since = trio.current_time()
            try:
                async with self._serving() as child:
                    self._served.set()
                    how = describe_exit(await child.wait()) + log_tail(child.spec.log)
            except NotReady as error:
                if not self._served.is_set():
                    raise NotReady(f"{self.name} {error}") from None
                how = str(error)
            deaths = 1 if trio.current_time() - since > _HEALTHY_AFTER else deaths + 1
            if deaths > _MOST_DEATHS:
                raise NotReady(f"{self.name} died {deaths} times in a row; the last time it {how}")
            delay = min(_FIRST_DELAY * 2 ** (deaths - 1), _LONGEST_DELAY)
            self._say(f"{self.name} {how}\n{self.name} starts again in {delay:.1f} s")
            await trio.sleep(delay)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[Child]:
        """The process, from when it says that it serves until after the body."""
        reading, writing = os.pipe()
        async with trio.lowlevel.FdStream(reading) as pipe:
            try:
                child = start_child(self._command(writing, self._first))
            finally:
                os.close(writing)
            async with stopping(child):
                announcement = await self._announcement(pipe, child)
                self._first = self._first or announcement
                self._child = child
                yield child

    async def _announcement(self, pipe: trio.abc.ReceiveStream, child: Child) -> Announcement:
        """What the process says once it serves. Raises :class:`NotReady`."""
        received = b""
        with trio.move_on_after(_START_WITHIN):
            async for chunk in pipe:
                received += chunk
                if received.endswith(b"\n"):
                    announcement: Announcement = json.loads(received)
                    return announcement
                if len(received) > _LONGEST_ANNOUNCEMENT:
                    break
            returncode = await child.wait()
            raise NotReady(f"{describe_exit(returncode)} before it served{log_tail(child.spec.log)}")
        raise NotReady(f"did not serve within {_START_WITHIN:.0f} s{log_tail(child.spec.log)}")
