"""Do what only one process may do, while holding the lease for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable
from backendai.storage import leases as store

log = structlog.get_logger(__name__)

#: Duties of the holder: called with the fencing token, runs until cancelled.
Duties = Callable[[int], Awaitable[None]]


class Lease:
    """Competes for a named lease and runs the duties whenever this process has it.

    The lease is renewed three times within its life. When that fails for two thirds of it, the duties are
    cancelled before another process can have begun them; what they might still write is refused by the token.
    """

    def __init__(self, database: Database, name: str, ttl: timedelta) -> None:
        self._database = database
        self._name = name
        self._ttl = ttl
        #: The token while this process holds the lease.
        self.token: int | None = None

    async def run(
        self, duties: Duties, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Compete until cancelled. ``started`` after the first attempt, won or not.

        An error of the duties, and a database that cannot be reached, travel up.
        """
        told = False
        while True:
            token = await store.acquire(self._database, self._name, self._database.application, self._ttl)
            if token is not None:
                try:
                    await self._hold(token, duties, task_status if not told else trio.TASK_STATUS_IGNORED)
                finally:
                    await self._release(token)
                told = True
            if not told:
                task_status.started()
                told = True
            await trio.sleep(self._ttl.total_seconds() / 4)

    async def _hold(self, token: int, duties: Duties, task_status: trio.TaskStatus[None]) -> None:
        log.info("lease.held", lease=self._name, token=token)
        try:
            async with trio.open_nursery() as nursery:
                self.token = token
                nursery.start_soon(duties, token, name=f"duties of {self._name}")
                task_status.started()
                await self._keep(token)
                nursery.cancel_scope.cancel()
        except* store.LeaseLost:
            pass  # the duties noticed it first
        log.warning("lease.lost", lease=self._name, token=token)

    async def _keep(self, token: int) -> None:
        """Renew; returns once the lease is lost."""
        seconds = self._ttl.total_seconds()
        renewed = trio.current_time()
        while trio.current_time() < renewed + seconds * 2 / 3:
            await trio.sleep(seconds / 3)
            asked = trio.current_time()
            try:
                with trio.fail_after(seconds / 3):
                    if not await store.renew(self._database, self._name, token, self._ttl):
                        return
            except (DatabaseUnavailable, trio.TooSlowError):
                continue
            renewed = asked

    async def _release(self, token: int) -> None:
        self.token = None
        with trio.move_on_after(1) as scope:
            scope.shield = True
            try:
                await store.release(self._database, self._name, token)
            except DatabaseUnavailable:
                return  # it expires by itself
