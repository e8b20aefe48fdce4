"""What the edge and the handlers need to know besides the services."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    allow_origins: tuple[str, ...] = ("*",)
    #: Bytes of a request body that is not an upload.
    max_body: int = 1 << 20
    #: Seconds a client may take to send a body; for an upload, seconds without a byte.
    body_timeout: float = 30.0
    #: Bytes of one uploaded file.
    max_upload: int = 1 << 30
    #: Seconds without a byte or a pong from the client after which terminals and tunnels are closed.
    relay_idle: float = 600.0
    #: Answer a bug with its traceback. Never in production: it shows internals.
    debug: bool = False
