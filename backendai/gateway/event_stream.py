"""What all streams of server-sent events have in common (contract 03 §6)."""

from __future__ import annotations

import trio

from backendai.gateway.reply import Header, Write

HEADERS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
#: Seconds between comments that keep proxies from closing a silent connection.
PING_INTERVAL = 15.0
_PING = b": ping\n\n"


async def ping(write: Write, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Write comments until cancelled; ``started`` after the first, which brings the headers to the client."""
    await write(_PING)
    task_status.started()
    while True:
        await trio.sleep(PING_INTERVAL)
        await write(_PING)
