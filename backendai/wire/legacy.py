"""What clients of mid-2017 and the manager say to each other over ZeroMQ (contract 01 §9).

A REQ socket sends one JSON object in one frame and gets one back. There is no authentication in it.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Annotated, Any

import msgspec

#: Bytes of a request; a larger one is not read, and its connection is closed.
MAX_REQUEST_BYTES = 16 << 10
#: Names of sessions that are made for these clients begin so.
SESSION_PREFIX = "legacy-"
#: Hex digits of the digest in such a name: 192 bits.
_DIGITS = 48


class Action(IntEnum):
    PING = 0
    GET_OR_CREATE = 2
    DESTROY = 3


class Outcome(IntEnum):
    PONG = 0
    SUCCESS = 200
    INVALID_INPUT = 400
    FAILURE = 500


MALFORMED = "Malformed API request."
MISSING = "Missing API parameters."
NO_SUCH_KERNEL = "No such kernel."
NO_INSTANCE = "There is no available instance."
TRY_AGAIN = "Kernel creation failed. Try again later."
NO_MORE_KERNELS = "You cannot create more kernels."

Text = Annotated[str, msgspec.Meta(max_length=256, pattern=r"\A[^\x00-\x1f]*\Z")]


class Ping(msgspec.Struct, frozen=True):
    #: Comes back as it is.
    body: msgspec.Raw


class GetOrCreate(msgspec.Struct, frozen=True):
    user_id: Text | int
    entry_id: Text | int
    lang: Text

    @property
    def token(self) -> str:
        """What the three were called together."""
        return f"{self.user_id}:{self.entry_id}:{self.lang}"

    @property
    def session_name(self) -> str:
        """A name for the session: valid whatever the three hold, the same for the same, else another."""
        told = msgspec.json.encode([str(self.user_id), str(self.entry_id), self.lang])
        return SESSION_PREFIX + hashlib.sha256(told).hexdigest()[:_DIGITS]


class Destroy(msgspec.Struct, frozen=True):
    kernel_id: Text


LegacyRequest = Ping | GetOrCreate | Destroy
_REQUESTS: dict[int, type[LegacyRequest]] = {
    Action.PING: Ping,
    Action.GET_OR_CREATE: GetOrCreate,
    Action.DESTROY: Destroy,
}


class LegacyRefusal(Exception):
    """What cannot be carried out; ``reply`` says why, and to an unknown action nothing."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        super().__init__(reply.decode())


def decode_request(data: bytes) -> LegacyRequest:
    """Raises :class:`LegacyRefusal`."""
    try:
        data.decode()
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        action = msgspec.json.decode(members["action"])
    except (msgspec.MsgspecError, ValueError, RecursionError, KeyError):
        raise LegacyRefusal(failure(Outcome.INVALID_INPUT, MALFORMED)) from None
    kind = _REQUESTS.get(action) if type(action) is int else None
    if kind is None:
        raise LegacyRefusal(b"{}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise LegacyRefusal(failure(Outcome.INVALID_INPUT, MISSING)) from None


def pong(request: Ping) -> bytes:
    return msgspec.json.encode({"reply": Outcome.PONG, "body": request.body})


def success(**more: Any) -> bytes:
    return msgspec.json.encode({"reply": Outcome.SUCCESS, **more})


def failure(outcome: Outcome, cause: str) -> bytes:
    return msgspec.json.encode({"reply": outcome, "cause": cause})
