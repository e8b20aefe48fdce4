"""A small client of the API, for the commands that talk to a running service."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from backendai.cli.up.announce import CONNECTION_FILE
from backendai.core.account import Secret
from backendai.core.signing import SignedRequest, sign

API_VERSION = "v6.20220315"
_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to send requests, and whose."""

    endpoint: str
    access_key: str
    secret_key: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        """The body; raises :class:`click.ClickException` with the server's words unless it went well."""
        if self.status >= 400:
            raise click.ClickException(f"the server answered {self.status}: {_reason(self.body)}")
        return json.loads(self.body) if self.body else None


def find_connection(data_dir: Path, *, admin: bool) -> Connection:
    """The service and key pair that the environment names as for any client, else ``up`` on ``data_dir``."""
    environ = os.environ
    endpoint, access_key, secret_key = (
        environ.get(name) for name in ("BACKEND_ENDPOINT", "BACKEND_ACCESS_KEY", "BACKEND_SECRET_KEY")
    )
    if endpoint and access_key and secret_key and not admin:
        return Connection(endpoint.rstrip("/"), access_key, Secret(secret_key))
    running = running_service(data_dir)
    if running is None:
        raise click.ClickException(
            f"no service runs on {data_dir}; start it with `backendai up`, or set BACKEND_ENDPOINT, "
            "BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY"
        )
    prefix = "admin_" if admin else ""
    return Connection(
        running["endpoint"], running[prefix + "access_key"], Secret(running[prefix + "secret_key"])
    )


def running_service(data_dir: Path) -> Mapping[str, Any] | None:
    """What ``up`` left about itself beside its data; None when none runs there."""
    try:
        content: Mapping[str, Any] = json.loads((data_dir / CONNECTION_FILE).read_text())
    except FileNotFoundError:
        return None
    return content


def signed_headers(
    connection: Connection, method: str, target: str, body: bytes, *, now: datetime
) -> dict[str, str]:
    """All headers that a request needs, its signature among them."""
    headers = {"Date": now.isoformat(), "X-BackendAI-Version": API_VERSION}
    if body:
        headers["Content-Type"] = "application/json"
    request = SignedRequest(
        method=method,
        target=target,
        date_text=headers["Date"],
        date=now,
        host=urlsplit(connection.endpoint).netloc,
        content_type=headers.get("Content-Type"),
        version_header="x-backendai-version",
        version=API_VERSION,
        body=body,
    )
    signature = sign(request, connection.secret_key)
    headers["Authorization"] = (
        f"BackendAI signMethod=HMAC-SHA256, credential={connection.access_key}:{signature}"
    )
    return headers


def send(connection: Connection, method: str, target: str, body: Mapping[str, Any] | None = None) -> Answer:
    """Send one signed request and wait for its answer, at most ten minutes."""
    return send_bytes(connection, method, target, b"" if body is None else json.dumps(body).encode())


def send_bytes(connection: Connection, method: str, target: str, body: bytes) -> Answer:
    """As :func:`send`, with a body that is JSON already."""
    parts = urlsplit(connection.endpoint)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    line = kind(parts.netloc, timeout=_TIMEOUT)
    headers = signed_headers(connection, method, target, body, now=datetime.now(UTC))
    try:
        line.request(method, target, body=body or None, headers=headers)
        response = line.getresponse()
        return Answer(response.status, response.read())
    except OSError as error:
        raise click.ClickException(f"{connection.endpoint} cannot be reached: {error}") from None
    finally:
        line.close()


def _reason(body: bytes) -> str:
    try:
        problem = json.loads(body)
        return str(problem.get("msg") or problem.get("title") or problem)
    except (ValueError, AttributeError):
        return body.decode(errors="replace")[:500]
