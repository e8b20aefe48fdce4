"""The HMAC request signature of every client generation (contract 01 §2 and §3). Pure: no clock, no I/O.

Signed is a text of seven lines (:meth:`SignedRequest.string_to_sign`), with a key that is derived from
the secret key for one calendar day and one ``Host``. The body is part of it only for API versions before
v4.20181215.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from dateutil.parser import parse as parse_any_date

from backendai.core.account import Secret
from backendai.core.errors import AuthFailed, InvalidAuthParameters
from backendai.core.zones import ZONES

#: How far the clocks of client and server may be apart; reaching it counts as too far.
CLOCK_TOLERANCE = timedelta(minutes=15)
#: From this version header on (compared as text) the body is not part of the signature.
BODY_UNSIGNED_SINCE = "v4.20181215"
#: Names of headers that may carry the signed date, by precedence: browsers cannot set ``Date``.
DATE_HEADERS = ("date", "x-backendai-date", "x-sorna-date")

_SCHEMES = frozenset({"BackendAI", "Sorna"})
_MAX_DATE_LENGTH = 64
#: The variable-length members of the guaranteed set have no HMAC.
_HASHES = frozenset(hashlib.algorithms_guaranteed) - {"shake_128", "shake_256"}
_EMPTY_DIGESTS = {name: hashlib.new(name, usedforsecurity=False).hexdigest() for name in _HASHES}
#: The permissive parser completes a date from the clock; completed from here, it is out of step and refused.
_NO_DATE = datetime(1970, 1, 1)  # noqa: DTZ001


@dataclass(frozen=True, slots=True)
class Authorization:
    """A parsed ``Authorization`` header. ``hash_name`` is a name :mod:`hashlib` knows."""

    access_key: str
    hash_name: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """All parts of a request that its signature covers, as they came over the wire."""

    method: str
    #: Undecoded path and query, with any version prefix.
    target: str
    date_text: str
    date: datetime
    host: str
    #: The header's value, or None when none was sent.
    content_type: str | None
    version_header: str
    version: str
    body: bytes = b""

    def string_to_sign(self, hash_name: str) -> str:
        """The seven lines of contract 01 §3.1."""
        media_type = media_type_of(self.content_type)
        return "\n".join(
            (
                self.method,
                self.target,
                self.date_text,
                f"host:{self.host}",
                f"content-type:{media_type}",
                f"{self.version_header}:{self.version}",
                self._body_digest(hash_name, media_type),
            )
        )

    def _body_digest(self, hash_name: str, media_type: str) -> str:
        if self.version >= BODY_UNSIGNED_SINCE or not self.body or media_type == "multipart/form-data":
            return _EMPTY_DIGESTS[hash_name]
        return hashlib.new(hash_name, self.body, usedforsecurity=False).hexdigest()

    def with_method(self, method: str) -> SignedRequest:
        return replace(self, method=method)


def media_type_of(content_type: str | None) -> str:
    """The media type as it is signed: lower case, no parameters, a fixed one where none was sent."""
    if not content_type:
        return "application/octet-stream"
    return content_type.partition(";")[0].strip().lower()


def parse_authorization(header: str) -> Authorization:
    """Take an ``Authorization`` header apart.

    Raises :class:`InvalidAuthParameters` for bad syntax or an unknown method, :class:`AuthFailed` for a
    method that is not of the form ``MAC-HASH``.
    """
    scheme, space, rest = header.partition(" ")
    if not space:
        raise InvalidAuthParameters("Malformed authorization header")
    if scheme not in _SCHEMES:
        raise InvalidAuthParameters("Invalid authorization type name")
    parameters: dict[str, str] = {}
    for part in rest.split(","):
        name, equals, value = part.partition("=")
        if equals:
            parameters[name.strip()] = value.strip()
    access_key, colon, signature = parameters.get("credential", "").partition(":")
    method = parameters.get("signMethod")
    if method is None or not colon or not access_key or not signature:
        raise InvalidAuthParameters("Missing or malformed authorization parameters")
    return Authorization(access_key, _hash_of(method), signature)


def _hash_of(method: str) -> str:
    words = method.lower().split("-")
    if len(words) != 2:
        raise AuthFailed("Invalid signature")
    mac, hash_name = words
    if mac != "hmac":
        raise InvalidAuthParameters("Unsupported request signing method (MAC type)")
    if hash_name not in _HASHES:
        raise InvalidAuthParameters("Unsupported request signing method (hash type)")
    return hash_name


def signed_date(headers: Mapping[str, str], now: datetime) -> tuple[str, datetime]:
    """The date header that counts, as text and as a time, if it is in step with ``now``.

    ``headers`` has lower-case names. Raises :class:`InvalidAuthParameters` when there is none, it cannot be
    read, or it is :data:`CLOCK_TOLERANCE` or more away.
    """
    for name in DATE_HEADERS:
        text = headers.get(name)
        if text:
            break
    else:
        raise InvalidAuthParameters("Date/time sync error")
    try:
        date = parse_date(text)
    except ValueError:
        raise InvalidAuthParameters("Date/time sync error") from None
    if not -CLOCK_TOLERANCE < now - date < CLOCK_TOLERANCE:
        raise InvalidAuthParameters("Date/time sync error")
    return text, date


def parse_date(text: str) -> datetime:
    """Any date a client may send, in the zone it was written in, UTC if it names none. Raises ValueError."""
    if len(text) > _MAX_DATE_LENGTH:
        raise ValueError("too long for a date")
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        date = _parse_permissively(text)
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _parse_permissively(text: str) -> datetime:
    try:
        date = parse_any_date(text, default=_NO_DATE, tzinfos=_zone)
    except (OverflowError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
        # The permissive parser answers some hostile texts with an accident instead of its own error.
        raise ValueError("not a date") from error
    if not isinstance(date, datetime):
        raise ValueError("not a date")
    return date


def _zone(name: str | None, offset: int | None) -> tzinfo | None:
    if offset is not None:
        return timezone(timedelta(seconds=offset))
    if name is None:
        return None
    try:
        return ZONES[name.upper()]
    except KeyError:
        raise ValueError("unknown time zone") from None


@lru_cache(maxsize=4096)
def _signing_key(secret_key: Secret, hash_name: str, day: str, host: str) -> bytes:
    day_key = hmac.digest(secret_key.reveal().encode(), day.encode(), hash_name)
    return hmac.digest(day_key, host.encode("latin-1", "replace"), hash_name)


def sign(request: SignedRequest, secret_key: Secret, hash_name: str = "sha256") -> str:
    """The signature of a request in lower-case hex."""
    # The day is the one of the header's own zone, not of UTC.
    key = _signing_key(secret_key, hash_name, request.date.strftime("%Y%m%d"), request.host)
    return hmac.digest(key, request.string_to_sign(hash_name).encode(), hash_name).hex()


def verify(request: SignedRequest, authorization: Authorization, secret_key: Secret) -> bool:
    """Whether the signature fits, in a time that does not depend on how much of it does."""
    expected = sign(request, secret_key, authorization.hash_name)
    return hmac.compare_digest(expected.encode(), authorization.signature.encode())
