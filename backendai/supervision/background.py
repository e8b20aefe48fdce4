"""A nursery whose tasks serve the body of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

T = TypeVar("T")


@asynccontextmanager
async def open_background(start: Callable[[trio.Nursery], Awaitable[T]], *, name: str) -> AsyncIterator[T]:
    """Hand out what ``start`` makes of a nursery, and cancel the tasks in it after the body.

    A body's error travels out as it is, not in a group; an error of ``start`` or of a task cancels the body
    and travels out in an :exc:`ExceptionGroup`, as from any nursery. ``name`` is for the group of both.
    """
    body_error: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            value = await start(nursery)
            try:
                yield value
            except Exception as error:
                # Raised again below, outside of the nursery, which would wrap it in a group. Cancelled, and a
                # group that holds one, is no Exception: it must pass through the nursery it belongs to.
                body_error = error
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as task_errors:
        if body_error is None:
            raise
        raise BaseExceptionGroup(f"{name} and its user failed", [body_error, task_errors]) from None
    if body_error is not None:
        raise body_error
