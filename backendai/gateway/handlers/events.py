"""``/events/session``: what happens to sessions, as server-sent events (contract 03 §6, §7).

Events have ids, and who comes back with ``Last-Event-ID`` misses none. The official clients come back by
themselves, with the signature of their first request, unless they were told ``server_close``; so the end of
this process is no reason to say that.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.core.errors import InvalidParameters, NotImplementedByServer
from backendai.core.session import SessionEvent
from backendai.gateway.call import Call
from backendai.gateway.event_stream import HEADERS, ping
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, StreamReply, Write
from backendai.gateway.route import VERSIONED, Gate, Route
from backendai.manager.events import EventFeed, EventFilter
from backendai.supervision.broadcast import SubscriberTooSlow

log = structlog.get_logger(__name__)

#: Some events the reader asked for are no longer known.
_LOST = b'event: events_lost\ndata: {"reason": "what happened after the given event is no longer known"}\n\n'
_TOO_SLOW = (
    b'event: server_close\ndata: {"reason": "too slow: read faster, or come back with the last id"}\n\n'
)
_LEVELS = frozenset({"session", "kernel"})
_EVENT_ID = re.compile(r"[0-9]{1,18}")


async def session_events(call: Call) -> StreamReply:
    return StreamReply(_feed(call, _wanted(call), _last_event(call)), HEADERS)


@asynccontextmanager
async def _feed(
    call: Call, wanted: EventFilter, after: int | None
) -> AsyncIterator[Callable[[Write], Awaitable[None]]]:
    reader = call.headers.get("authorization")
    async with call.services.events.subscribe(call.principal, wanted, after=after, reader=reader) as feed:
        yield partial(_pump, feed)


async def _pump(feed: EventFeed, write: Write) -> None:
    """Write events until the server stops. A reader too far behind is told so, and cut off."""
    async with trio.open_nursery() as nursery:
        await nursery.start(ping, write)
        try:
            if not feed.complete:
                await write(_LOST)
            async for event in feed:
                await write(encode_event(event))
        except SubscriberTooSlow:
            log.info("event reader cut off, it was too slow")
            await write(_TOO_SLOW)
        nursery.cancel_scope.cancel()


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
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.name.encode(), msgspec.json.encode(data))


def _last_event(call: Call) -> int | None:
    text = call.headers.get("last-event-id") or str(call.parameters.get("lastEventId") or "")
    if not text:
        return None
    if not _EVENT_ID.fullmatch(text):
        raise InvalidParameters.of({"Last-Event-ID": "is not the id of an event of this server"})
    return int(text)


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


async def kernel_events(call: Call) -> Reply:
    """What 1.x had in mind for one kernel and never gave (contract 02 §15)."""
    Fields(call.parameters).check()  # what cannot be read is told first, as everywhere
    raise NotImplementedByServer("Ask /stream/kernel/_/events?sessionId=... for the events of one kernel.")


ROUTES = (
    Route(method="GET", path="/events/session", handler=session_events, gate=Gate.READ),
    *(
        Route(
            method="GET",
            path=f"{root}/stream/kernel/{ref}/events",
            handler=handler,
            gate=Gate.READ,
            legacy=True,
        )
        for root in ("", VERSIONED)
        for ref, handler in (("_", session_events), ("<ref>", kernel_events))
    ),
)
