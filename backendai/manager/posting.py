"""One HTTP POST to a place that a user chose: where it goes is checked, and stays what was checked."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

import h11
import trio

from backendai.core.addresses import Network, why_forbidden

#: Bytes of the answer that are looked at.
_MAX_ANSWER = 64 << 10
_PORTS = {"http": 80, "https": 443}


class PostFailed(Exception):
    """It could not be delivered; the text says why. ``final``: sending it again would not help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads, as far as the URL tells."""

    secure: bool
    host: str
    port: int
    #: As on the request line.
    target: str


def parse_place(url: str) -> Place:
    """Raises ValueError, with a text for the user, for what is no http or https URL."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("has characters that a URL cannot have")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError("must begin with http:// or https://")
    if not parts.hostname:
        raise ValueError("names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    port = parts.port or _PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme == "https", parts.hostname, port, target)


async def post(
    place: Place,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Sequence[Network] = (),
    tls: ssl.SSLContext | None = None,
) -> int:
    """Send one request on a connection of its own and answer its status; redirects are not followed.

    The name is resolved once, every address it has must be one that users may send us to, and one of those is
    connected to. Raises :class:`PostFailed`. Set a deadline around it: there is none inside.
    """
    stream = await _connect(place, await _resolve(place, allowed), tls)
    try:
        return await _exchange(stream, place, body, headers)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        # Of TLS, the reason is in the cause: a certificate that does not fit, for one.
        raise PostFailed(f"the connection broke: {error.__cause__ or error}") from error
    except h11.RemoteProtocolError as error:
        raise PostFailed(f"the answer is not HTTP: {error}") from error
    finally:
        with suppress(trio.BrokenResourceError):
            await trio.aclose_forcefully(stream)


async def _resolve(place: Place, allowed: Sequence[Network]) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(place.host, place.port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PostFailed(f"{place.host} cannot be resolved: {error}") from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        if what := why_forbidden(address, allowed):
            raise PostFailed(f"{place.host} is at {address}, which is {what}", final=True)
    return addresses


async def _connect(place: Place, addresses: Sequence[str], tls: ssl.SSLContext | None) -> trio.abc.Stream:
    why = "it has no address"
    for address in addresses:
        try:
            stream = await trio.open_tcp_stream(address, place.port)
        except OSError as error:
            why = str(error)
            continue
        if not place.secure:
            return stream
        context = tls or _trusted()
        return trio.SSLStream(stream, context, server_hostname=place.host, https_compatible=True)
    raise PostFailed(f"{place.host} cannot be reached: {why}")


@cache
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _exchange(stream: trio.abc.Stream, place: Place, body: bytes, headers: Mapping[str, str]) -> int:
    default = place.port == _PORTS["https" if place.secure else "http"]
    host = f"[{place.host}]" if ":" in place.host else place.host
    head = {
        "Host": host if default else f"{host}:{place.port}",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
    request = h11.Request(method="POST", target=place.target, headers=list(head.items()))
    sent = http.send(request) or b""
    sent += http.send(h11.Data(data=body)) or b""
    sent += http.send(h11.EndOfMessage()) or b""
    await stream.send_all(sent)
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(16 << 10)))
        elif isinstance(event, h11.Response):
            return event.status_code
        elif not isinstance(event, h11.InformationalResponse):
            raise PostFailed("the connection was closed without an answer")
