"""A background service that outlives everything that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from backendai.supervision.background import open_background


@asynccontextmanager
async def open_service(run: Callable[..., Awaitable[None]], *, name: str) -> AsyncIterator[Any]:
    """Start ``run(task_status=...)``, hand out what it passes to ``started``, and stop it after the body.

    In a plain nursery a cancellation reaches a service and its users at once, so that a user's ``finally``
    finds the service dead. Here the service is shielded as soon as it has started, and cancelled only when
    the body is done. Errors of body and service travel as from :func:`open_background`.
    """
    scope = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        class ShieldOnceStarted:
            def started(self, value: Any = None) -> None:
                task_status.started(value)
                scope.shield = True

        with scope:
            await run(task_status=ShieldOnceStarted())

    async with open_background(lambda nursery: nursery.start(serve, name=name), name=name) as value:
        try:
            yield value
        finally:
            scope.cancel()
