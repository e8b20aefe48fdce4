"""The asyncio loop inside Trio that asyncio libraries of this process share.

Open it once, in the composition root, outside everything that serves requests: tasks find it by a context
variable, and one opened inside a web framework's nursery is invisible to request handlers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio_asyncio

T = TypeVar("T")


@asynccontextmanager
async def open_asyncio_loop() -> AsyncIterator[None]:
    """Run an asyncio loop for the time of the block. Leaving the block cancels what still runs in it."""
    async with trio_asyncio.open_loop():
        yield


async def run_in_asyncio(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an asyncio coroutine from Trio code and return its result or raise its exception.

    Cancelling the caller cancels the coroutine and waits until it has ended.
    """
    result: T = await trio_asyncio.run_aio_coroutine(coroutine)
    return result
