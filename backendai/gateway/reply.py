"""What goes back to the client: a reply at once, or one that comes piece by piece."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import msgspec

JSON = (b"content-type", b"application/json; charset=utf-8")
JSON_PROBLEM = (b"content-type", b"application/problem+json")

Header = tuple[bytes, bytes]
_json = msgspec.json.Encoder(decimal_format="string")


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = ()


Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class StreamReply:
    """A reply whose body comes piece by piece.

    ``source`` is entered before the first byte goes out, so it may still refuse with a BackendError. It
    yields a function that writes the body and is cancelled when the client hangs up.
    """

    source: AbstractAsyncContextManager[Callable[[Write], Awaitable[None]]]
    headers: tuple[Header, ...] = ()
    status: int = 200
    #: Label of the metrics of what is open.
    kind: str = "events"


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, _json.encode(value), (JSON,))


NO_CONTENT = Reply(204)
