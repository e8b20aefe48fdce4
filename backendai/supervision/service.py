"""A background service that outlives everything that uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

T = TypeVar("T")


@asynccontextmanager
async def open_service(run: Callable[..., Awaitable[None]], *, name: str) -> AsyncIterator[Any]:
    """Start ``run(task_status=...)``, hand out what it passes to ``started``, and stop it after the body.

    In a plain nursery a cancellation reaches a service and its users at once, so that a user's ``finally``
    finds the service dead. Here the service is shielded as soon as it has started, and cancelled only when
    the body is done. A body's error travels out as it is, not in a group; an error of the service cancels
    the body and travels out in an :exc:`ExceptionGroup`, as from any nursery.
    """
    body_error: Exception | None = None
    scope = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        class ShieldOnceStarted:
            def started(self, value: Any = None) -> None:
                task_status.started(value)
                scope.shield = True

        with scope:
            await run(task_status=ShieldOnceStarted())

    try:
        async with trio.open_nursery() as nursery:
            value = await nursery.start(serve, name=name)
            try:
                yield value
            except Exception as error:
                # Raised again below, outside of the nursery, which would wrap it in a group. Cancelled, and a
                # group that holds one, is no Exception: it must pass through the nursery it belongs to.
                body_error = error
            finally:
                scope.cancel()
    except BaseExceptionGroup as service_errors:
        if body_error is None:
            raise
        raise BaseExceptionGroup(
            f"service {name} and its user failed", [body_error, service_errors]
        ) from None
    if body_error is not None:
        raise body_error
