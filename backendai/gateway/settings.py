"""What one gateway process needs to know beyond the manager it carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from backendai.manager.legacy import LegacySettings
from backendai.manager.settings import ManagerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    manager: ManagerSettings
    #: Address to bind; contract 01 §8 calls it service-ip.
    service_ip: str = "127.0.0.1"
    #: Plain HTTP; None serves no plain HTTP, 0 chooses a free port.
    http_port: int | None = 8080
    #: HTTPS; None serves none. Needs ``ssl_cert`` and ``ssl_key``.
    https_port: int | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    #: Origins that CORS admits, ``*`` for any.
    allow_origins: tuple[str, ...] = ("*",)
    #: Bytes of a request body that is not an upload.
    max_body: int = 1 << 20
    #: Bytes of one WebSocket message.
    max_message: int = 16 << 20
    #: Bytes of one uploaded file; the session's disk limit holds besides.
    max_upload: int = 1 << 30
    #: Silence of the client after which a terminal or tunnel is closed; answering our pings is no silence.
    relay_idle: timedelta = timedelta(minutes=10)
    #: Seconds a stop waits for requests under way.
    grace: float = 2.0
    #: The ZeroMQ interface for clients of 2017; None serves none.
    legacy: LegacySettings | None = None
    debug: bool = False
    log_format: str = "console"
    log_level: str = "info"
    #: Lines for the parent process: written once ready, as one JSON object
    #: ``{"http_port":..,"https_port":..,"legacy_port":..}``.
    ready_fd: int | None = None
