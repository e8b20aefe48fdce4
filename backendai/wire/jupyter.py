"""The Jupyter messaging protocol, version 5.3: bytes to records and back, no sockets.

A message on a ZeroMQ socket is ``[identities..., <IDS|MSG>, signature, header, parent header, metadata,
content, buffers...]``; the signature is an HMAC-SHA256 of the four JSON parts. What arrives comes from a
hostile place, so everything is bounded and whatever does not fit raises :class:`MalformedJupyterMessage`.
"""

from __future__ import annotations

import hmac
import json
import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.3"
SIGNATURE_SCHEME = "hmac-sha256"

#: Bytes of header, parent header and metadata each.
MAX_HEADER_BYTES = 64 << 10
#: Bytes of the content.
MAX_CONTENT_BYTES = 96 << 20
#: Routing prefixes before the delimiter (iopub sends its topic there) and binary buffers behind the content.
_MAX_PREFIXES = 4
_MAX_BUFFERS = 64

_EMPTY = b"{}"


class MalformedJupyterMessage(Exception):
    """Not a message of this protocol, or one whose signature is wrong."""


class Header(msgspec.Struct, frozen=True):
    """The members of a header anybody needs; of a parent header they may all be missing."""

    msg_id: str = ""
    msg_type: str = ""


class JupyterMessage(msgspec.Struct, frozen=True):
    header: Header
    parent: Header
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.header.msg_type


_headers = msgspec.json.Decoder(Header)
_contents = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def new_key() -> bytes:
    """A fresh signing key, as printable as the connection file needs it."""
    return secrets.token_hex(32).encode("ascii")


class JupyterCodec:
    """Signs and verifies with one key; ``session`` names the client to the kernel."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._session = secrets.token_hex(8)
        self._count = 0

    def encode(
        self, kind: str, content: dict[str, Any], *, parent: bytes = _EMPTY
    ) -> tuple[str, list[bytes]]:
        """A new message of ``kind`` as frames, and its id."""
        self._count += 1
        msg_id = f"{self._session}-{self._count}"
        header = _encoder.encode(
            {
                "msg_id": msg_id,
                "session": self._session,
                "username": "backendai",
                "date": datetime.now(UTC).isoformat(),
                "msg_type": kind,
                "version": PROTOCOL_VERSION,
            }
        )
        parts = [header, parent, _EMPTY, _encoder.encode(content)]
        return msg_id, [DELIMITER, self._sign(parts), *parts]

    def decode(self, frames: list[bytes]) -> JupyterMessage:
        """Check and read one received message. Raises :class:`MalformedJupyterMessage`."""
        try:
            start = frames.index(DELIMITER, 0, _MAX_PREFIXES + 1) + 1
        except ValueError:
            raise MalformedJupyterMessage("no delimiter") from None
        parts = frames[start + 1 : start + 5]
        if len(parts) != 4 or len(frames) > start + 5 + _MAX_BUFFERS:
            raise MalformedJupyterMessage("wrong number of parts")
        if any(len(part) > MAX_HEADER_BYTES for part in parts[:3]) or len(parts[3]) > MAX_CONTENT_BYTES:
            raise MalformedJupyterMessage("part too long")
        if not hmac.compare_digest(self._sign(parts), frames[start]):
            raise MalformedJupyterMessage("wrong signature")
        header, parent, _metadata, content = parts
        try:
            return JupyterMessage(_headers.decode(header), _headers.decode(parent), _content(content))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MalformedJupyterMessage(type(error).__name__) from error

    def _sign(self, parts: list[bytes]) -> bytes:
        return hmac.digest(self._key, b"".join(parts), "sha256").hex().encode("ascii")


def _content(data: bytes) -> dict[str, Any]:
    try:
        return _contents.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Programs do print halves of surrogate pairs and the like. Show replacement characters instead.
        lenient = json.loads(data.decode("utf-8", "replace"))
        return _contents.decode(json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace"))
