"""Taking in a request body within bounds of size and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from backendai.core.errors import BadRequest
from backendai.gateway.errors import BodyTooLarge, BodyTooSlow, UnsupportedMediaType

Receive = Callable[[], Awaitable[Any]]

#: An oversized body is read on this far, times the limit, because closing on a sender loses it our answer.
_DRAIN_FACTOR = 8


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


async def read_body(headers: Mapping[str, str], receive: Receive, *, limit: int, timeout: float) -> bytes:
    """The whole body, at most ``limit`` bytes that arrive within ``timeout`` seconds.

    Raises :class:`BodyTooLarge`, :class:`BodyTooSlow`, :class:`UnsupportedMediaType` or :class:`ClientGone`.
    """
    length = headers.get("content-length")
    if (length is None or length == "0") and "transfer-encoding" not in headers:
        return b""
    if length is not None and not length.isdecimal():
        raise BadRequest("Content-Length is not a number")
    try:
        with trio.fail_after(timeout):
            body = await _collect(receive, limit)
    except trio.TooSlowError:
        raise BodyTooSlow from None
    if body:
        _check_form(headers)
    return body


async def _collect(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit * _DRAIN_FACTOR:
            raise BodyTooLarge(f"At most {limit} bytes are taken here")
        if not message.get("more_body", False):
            break
    if size > limit:
        raise BodyTooLarge(f"At most {limit} bytes are taken here")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_form(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:32]} is not understood")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Clients send JSON under all kinds of names, so only what is surely something else is refused.
    if media_type == "text/yaml" or media_type.startswith("multipart/"):
        raise UnsupportedMediaType(f"{media_type[:64]} is not understood here, send JSON")
