"""Which web pages may call us from a browser (contract 01 §6): by origin, never with its cookies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backendai.core.errors import Forbidden
from backendai.gateway.reply import Header, Reply

#: Readable by scripts without being listed.
_SIMPLE = frozenset(
    {b"cache-control", b"content-language", b"content-type", b"expires", b"last-modified", b"pragma"}
)


class CrossOrigin:
    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    def _admits(self, origin: str) -> bool:
        return self._any or origin in self._allowed

    def headers(self, origin: str, reply_headers: Sequence[Header]) -> list[Header]:
        """What a reply to a page of ``origin`` carries besides ``reply_headers``."""
        if not self._admits(origin):
            return [(b"vary", b"Origin")]
        exposed = sorted({name for name, _ in reply_headers} - _SIMPLE)
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b",".join(exposed)),
            (b"vary", b"Origin"),
        ]

    def preflight(self, headers: Mapping[str, str]) -> Reply:
        """The answer to an OPTIONS request. Raises :class:`Forbidden` if no admitted page asks."""
        origin = headers.get("origin")
        method = headers.get("access-control-request-method")
        if origin is None or method is None or not self._admits(origin):
            raise Forbidden("CORS preflight request failed")
        granted: list[Header] = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", method.encode("latin-1")),
            (b"access-control-max-age", b"600"),
            (b"vary", b"Origin"),
        ]
        asked = headers.get("access-control-request-headers")
        if asked:
            granted.append((b"access-control-allow-headers", asked.upper().encode("latin-1")))
        return Reply(200, b"", tuple(granted))
