"""``/events/session``: what happens to sessions, as server-sent events (contract 03 §6, §7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.core.errors import InvalidParameters
from backendai.core.session import SessionEvent
from backendai.gateway.call import VERSIONED, Call, Gate, Route, StreamReply, Write
from backendai.gateway.parameters import Fields
from backendai.manager.events import EventFilter
from backendai.supervision.broadcast import SubscriberTooSlow

log = structlog.get_logger(__name__)

#: Seconds between comments that keep proxies from closing a silent connection.
PING_INTERVAL = 15.0
_PING = b": ping\n\n"
_CLOSE = b"event: server_close\ndata: {}\n\n"
_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_LEVELS = frozenset({"session", "kernel"})


async def session_events(call: Call) -> StreamReply:
    return StreamReply(_feed(call, _wanted(call)), _HEADERS)


@asynccontextmanager
async def _feed(call: Call, wanted: EventFilter) -> AsyncIterator[Callable[[Write], Awaitable[None]]]:
    async with call.services.events.subscribe(call.principal, wanted) as events:
        yield partial(_pump, events)


async def _pump(events: AsyncIterator[SessionEvent], write: Write) -> None:
    """Write events until the server stops. A reader too far behind is cut off without a good-bye."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ping, write)
        try:
            async for event in events:
                await write(encode_event(event))
            await write(_CLOSE)
        except SubscriberTooSlow:
            log.info("event reader cut off, it was too slow")
        nursery.cancel_scope.cancel()


async def _ping(write: Write) -> None:
    # At once, so that headers and first bytes reach the client without waiting for an event.
    while True:
        await write(_PING)
        await trio.sleep(PING_INTERVAL)


def encode_event(event: SessionEvent) -> bytes:
    data: dict[str, Any] = {
        "reason": event.reason,
        "sessionName": event.session_name,
        "ownerAccessKey": event.access_key,
        "sessionId": str(event.session_id),
    }
    if event.kernel_id is not None:
        data["kernelId"] = str(event.kernel_id)
    if event.name.startswith("kernel_"):
        data["clusterRole"] = event.cluster_role
        if event.cluster_idx:
            data["clusterIdx"] = event.cluster_idx
    if event.exit_code is not None:
        data["exitCode"] = event.exit_code
    return b"event: %s\ndata: %s\n\n" % (event.name.encode(), msgspec.json.encode(data))


def _wanted(call: Call) -> EventFilter:
    fields = Fields(call.parameters)
    session_id, name = _session(fields, by_name=call.legacy or call.version.major <= 4)
    owner = fields.optional_text("ownerAccessKey", "owner_access_key", limit=64)
    group = fields.text("group", "groupName", default="*", limit=64)
    scopes = {word.strip() for word in fields.text("scope", default="*", limit=64).split(",")}
    if not scopes <= _LEVELS | {"*"}:
        fields.refuse("scope", "value is not one of *, session, kernel")
    fields.check()
    return EventFilter(
        session_id=session_id,
        session_name=None if name == "*" else name,
        owner_access_key=owner,
        group=None if group == "*" else group,
        levels=_LEVELS if "*" in scopes else frozenset(scopes),
    )


def _session(fields: Fields, *, by_name: bool) -> tuple[UUID | None, str]:
    """Old clients write the name where newer ones write the id."""
    if by_name:
        return None, fields.text("sessionId", "name", "sessionName", default="*", limit=64)
    name = fields.text("sessionName", "name", default="*", limit=64)
    text = fields.optional_text("sessionId", limit=64)
    if text is None:
        return None, name
    try:
        return UUID(text), "*"
    except ValueError:
        raise InvalidParameters.of({"sessionId": "cannot convert value to UUID"}) from None


ROUTES = (
    Route(method="GET", path="/events/session", handler=session_events, gate=Gate.READ),
    *(
        Route(
            method="GET",
            path=f"{root}/stream/kernel/_/events",
            handler=session_events,
            gate=Gate.READ,
            legacy=True,
        )
        for root in ("", VERSIONED)
    ),
)
