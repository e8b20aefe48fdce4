"""What bytes say, or the error that the protocol they came by has for bytes that say nothing."""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


def decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, malformed: type[Exception]) -> T:
    """Raises ``malformed``, with what is wrong in its text."""
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise malformed(str(error)) from error
