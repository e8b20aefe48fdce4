"""The ``Idempotency-Key`` header: a request that is sent again does nothing new.

For requests that create something. A client that cannot tell whether its request arrived sends it again with
the same key, signed anew, and gets the answer to the first.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from backendai.core.errors import InvalidParameters
from backendai.core.session import Idempotency
from backendai.gateway.call import Call

HEADER = "idempotency-key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def idempotency_of(call: Call) -> Idempotency | None:
    """None without the header. Raises :class:`InvalidParameters` for a key that is none."""
    key = call.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise InvalidParameters.of({"Idempotency-Key": "must be 1 to 255 visible ASCII characters"})
    content = [call.path, call.query.decode("latin-1"), call.parameters]
    fingerprint = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    return Idempotency(key=key, fingerprint=fingerprint)
