"""Streams of bytes into and out of a kernel, as every layer from the gateway to the runner carries them.

A stream is opened towards a :data:`StreamTarget` and then carries frames both ways. The *client* end is the
one that opened it (gateway, agent), the *server* end the one that has the target (runner).

* :class:`Data`: up to :data:`CHUNK_BYTES` bytes, never empty.
* :class:`Eof`: this end sends no more Data; the other direction goes on.
* :class:`Resize`: client to server, terminals only.
* :class:`Closed`: the last frame of an end. From the server it comes after all its Data and carries the
  result; it need not send Eof before. From the client it aborts: the server drops what it has not yet
  delivered. A connection that breaks without it counts as an abort from the client, as ``gone`` from the
  server.
* :class:`Credit`: on the ZeroMQ link only. Each end may have :data:`WINDOW_BYTES` of Data under way; a
  receiver grants as much as its consumer has taken. On the runner's unix socket the socket itself holds back.

What the targets make of it:

* terminal: the server closes when the terminal's process has ended. A client that leaves merely detaches.
  Eof from the client means nothing.
* port: Eof each way is the half close of the TCP connection; the server closes when both have been, or with
  ``io-error`` on a reset.
* upload: Data, then Eof; the server closes with the outcome. An abort leaves no file behind.
* download: the server sends Data, then closes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from backendai.wire.decoding import decode

#: Largest payload of one Data frame.
CHUNK_BYTES = 64 << 10
#: Data under way in one direction of one stream over the link.
WINDOW_BYTES = 256 << 10


class _Target(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class TerminalTarget(_Target, frozen=True, kw_only=True):
    """A terminal of the kernel by name, begun if there is none of that name.

    Who attaches to a live one is first sent the last bytes of its screen, at most 64 KiB. Any number may be
    attached; the last size told counts. ``argv`` is what to run in a new one, empty for the user's shell.
    ``restart`` ends a live one first and closes the streams of others.
    """

    terminal: str
    rows: int = 24
    cols: int = 80
    argv: tuple[str, ...] = ()
    restart: bool = False


class PortTarget(_Target, frozen=True, kw_only=True):
    """TCP to 127.0.0.1:``port`` inside the kernel's network namespace."""

    port: int


class UploadTarget(_Target, frozen=True, kw_only=True):
    """A file below the kernel's home directory, replaced as a whole once all of it has arrived.

    ``path`` is relative to home or absolute and below it; missing parents are made.
    """

    path: str


class DownloadTarget(_Target, frozen=True, kw_only=True):
    """``archive``: an uncompressed tar of the paths. Otherwise the bytes of the one regular file named."""

    paths: tuple[str, ...]
    archive: bool = True


StreamTarget = TerminalTarget | PortTarget | UploadTarget | DownloadTarget


class _Frame(msgspec.Struct, frozen=True, tag=True):
    pass


class Data(_Frame, frozen=True):
    payload: bytes


class Eof(_Frame, frozen=True):
    pass


class Resize(_Frame, frozen=True):
    rows: int
    cols: int


class Closed(_Frame, frozen=True):
    """``code`` is empty when all went well, else one of

    ``not-found``, ``forbidden-path``, ``too-large``, ``refused`` (nothing listens on the port), ``gone``
    (kernel, terminal or agent ended), ``io-error``, ``idle``, ``aborted``, ``protocol``, ``overload``.
    ``msg`` is for a person.
    """

    code: str = ""
    msg: str = ""


class Credit(_Frame, frozen=True):
    """The receiver's consumer has taken this many bytes more."""

    amount: int


#: What else a client may say to the target.
StreamControl = Resize
#: Frames on the runner's unix socket.
StreamFrame = Data | Eof | Resize | Closed
#: Frames on the link between manager and agent.
LinkStreamFrame = StreamFrame | Credit


class MalformedFrame(Exception):
    """A peer sent what is no frame of a stream, or one larger than allowed."""


# -- on the ZeroMQ link: [call id, b"s" + kind, payload] -----------------------------------------------------

#: First byte of the second part of a stream's message; no encoded call or answer begins with it.
STREAM_MARK = b"s"
#: ``[PROBE_ID, PROBE, call ids]``: the manager says every few seconds which streams it has on a connection,
#: the agent answers with those of them that it does not have. Either side ends what the other has lost.
PROBE_ID = bytes(8)
PROBE = b"sp"
_ID_BYTES = 8
_DATA = b"sd"
_EOF = b"se"
_OTHER = b"sx"

_encoder = msgspec.msgpack.Encoder()
_Other = Resize | Closed | Credit
_decoder: msgspec.msgpack.Decoder[_Other] = msgspec.msgpack.Decoder(_Other)


def encode_ids(call_ids: Iterable[bytes]) -> bytes:
    return b"".join(call_ids)


def decode_ids(payload: bytes) -> list[bytes]:
    """Raises :class:`MalformedFrame`."""
    if len(payload) % _ID_BYTES:
        raise MalformedFrame("not a list of call ids")
    return [payload[at : at + _ID_BYTES] for at in range(0, len(payload), _ID_BYTES)]


def encode_stream_parts(frame: LinkStreamFrame) -> list[bytes]:
    """The message parts after the call id."""
    match frame:
        case Data():
            return [_DATA, frame.payload]
        case Eof():
            return [_EOF, b""]
        case _:
            return [_OTHER, _encoder.encode(frame)]


def decode_stream_parts(kind: bytes, payload: bytes) -> LinkStreamFrame:
    """Raises :class:`MalformedFrame`."""
    if kind == _DATA:
        if not 0 < len(payload) <= CHUNK_BYTES:
            raise MalformedFrame(f"chunk of {len(payload)} bytes")
        return Data(payload)
    if kind == _EOF:
        return Eof()
    if kind != _OTHER:
        raise MalformedFrame("unknown kind of frame")
    return decode(_decoder, payload, MalformedFrame)
