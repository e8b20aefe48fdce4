"""``/events/background-task``: how far a background task has come (contract 03 §8)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import trio

from backendai.core.errors import InvalidParameters
from backendai.core.task import TaskState, TaskStatus
from backendai.gateway.call import Call
from backendai.gateway.event_stream import HEADERS, ping
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import StreamReply, Write
from backendai.gateway.route import Gate, Route

#: Clients read the pause before they reconnect in seconds.
_RETRY = b"retry: 5\n"
_CLOSE = b"event: server_close\ndata: {}\n\n"


async def task_events(call: Call) -> StreamReply:
    fields = Fields(call.parameters)
    task_id = fields.uuid("task_id", "taskId")
    fields.check()
    if task_id is None:
        raise InvalidParameters.of({"task_id": "is required"})
    return StreamReply(_feed(call, task_id), HEADERS)


@asynccontextmanager
async def _feed(call: Call, task_id: UUID) -> AsyncIterator[Callable[[Write], Awaitable[None]]]:
    async with call.services.tasks.follow(call.principal, task_id) as states:
        yield partial(_pump, states)


async def _pump(states: AsyncIterator[TaskState], write: Write) -> None:
    """Write until the task is over, or without a good-bye until the server stops."""
    async with trio.open_nursery() as nursery:
        await nursery.start(ping, write)
        live = False
        async for state in states:
            over = state.status is not TaskStatus.RUNNING
            # In one piece: a ping may come between two, and nothing may come after the good-bye.
            await write(_encode(state, live=live) + (_CLOSE if over else b""))
            if over:
                break
            live = True
        nursery.cancel_scope.cancel()


def _encode(state: TaskState, *, live: bool) -> bytes:
    """One event. A task that was over from the beginning is told in another form than one that ends now."""
    data: dict[str, Any] = {"task_id": str(state.id), "message": state.message}
    if state.status is TaskStatus.RUNNING:
        name = "bgtask_updated"
        data |= {"current_progress": state.current_progress, "total_progress": state.total_progress}
    else:
        name = f"bgtask_{state.status}"
        if state.errors:
            data["errors"] = state.errors
        if not live:
            data |= {
                "status": name,
                "current_progress": f"{state.current_progress:g}",
                "total_progress": f"{state.total_progress:g}",
            }
    frame = b"event: %s\ndata: %s\n" % (name.encode(), msgspec.json.encode(data))
    return frame + (_RETRY if live or state.status is TaskStatus.RUNNING else b"") + b"\n"


ROUTES = (Route(method="GET", path="/events/background-task", handler=task_events, gate=Gate.READ),)
