"""Taking in a request body within bounds of size and time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from backendai.gateway.errors import BodyTooLarge, BodyTooSlow, UnsupportedMediaType

Receive = Callable[[], Awaitable[Any]]

#: An oversized body is read on this far, times the limit, because closing on a sender loses it our answer.
_DRAIN_FACTOR = 8


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


class RequestBody:
    """The body of one request, which Hypercorn hands over in pieces."""

    __slots__ = ("_headers", "_receive", "pending")

    def __init__(self, headers: Mapping[str, str], receive: Receive) -> None:
        self._headers = headers
        self._receive = receive
        length = headers.get("content-length")
        #: Whether more of it may come.
        self.pending = (length is not None and length != "0") or "transfer-encoding" in headers

    async def read(self, *, limit: int, timeout: float) -> bytes:
        """The whole body, at most ``limit`` bytes that arrive within ``timeout`` seconds.

        Raises :class:`BodyTooLarge`, :class:`BodyTooSlow`, :class:`UnsupportedMediaType` or
        :class:`ClientGone`.
        """
        if not self.pending:
            return b""
        try:
            with trio.fail_after(timeout):
                body = await self._collect(limit)
        except trio.TooSlowError:
            raise BodyTooSlow from None
        if body:
            _check_form(self._headers)
        return body

    async def _collect(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self.pending:
            part = await self._next()
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > limit * _DRAIN_FACTOR:
                break
        if size > limit:
            raise BodyTooLarge(f"At most {limit} bytes are taken here")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def piece(self, timeout: float) -> bytes:
        """The next bytes, empty at the end, for those who take in a body as it comes.

        Raises :class:`BodyTooSlow` after ``timeout`` seconds without any, or :class:`ClientGone`.
        """
        try:
            with trio.fail_after(timeout):
                while self.pending:
                    if part := await self._next():
                        return part
        except trio.TooSlowError:
            raise BodyTooSlow from None
        return b""

    async def drain(self) -> None:
        """Throw away what still comes. Unread pieces would block Hypercorn, and with it the answer."""
        with suppress(ClientGone):
            while self.pending:
                await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.pending = False
            raise ClientGone
        self.pending = message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


def _check_form(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:32]} is not understood")
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Clients send JSON under all kinds of names, so only what is surely something else is refused.
    if media_type.startswith("multipart/"):
        raise UnsupportedMediaType(f"{media_type[:64]} is not understood here, send JSON")
