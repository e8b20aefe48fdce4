"""A session of this service, driven over signed HTTP on one kept connection."""

from __future__ import annotations

import http.client
import json
import socket
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from live.api import signed_headers

#: Seconds of rest after which a connection is made anew, well below the server's keep-alive time.
MAY_BE_CLOSED_AFTER = 10.0


class Refused(Exception):
    """The service answered with an error."""


class Caller:
    """Signed requests, one at a time."""

    def __init__(self, endpoint: str, keys: tuple[str, str]) -> None:
        self._host = urlsplit(endpoint).netloc
        self._keys = keys
        self._connection = http.client.HTTPConnection(self._host, timeout=60)
        self._used = float("-inf")

    def call(self, method: str, target: str, body: dict[str, Any] | None = None) -> Any:
        if time.monotonic() - self._used > MAY_BE_CLOSED_AFTER:
            self._connection.close()
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used = time.monotonic()
        media_type = "text/plain" if body is None else "application/json"
        headers = signed_headers(method, target, self._host, media_type, self._keys, datetime.now(UTC))
        headers["Content-Type"] = media_type
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, target, content, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise Refused(f"{method} {target}: {response.status} {answer[:500]!r}")
        return json.loads(answer) if answer else None

    def close(self) -> None:
        self._connection.close()


class Session:
    """A :class:`work.Kernel`."""

    def __init__(self, endpoint: str, keys: tuple[str, str]) -> None:
        self._caller = Caller(endpoint, keys)
        self.name = f"bench-{uuid4().hex[:12]}"
        self._caller.call("POST", "/session", {"name": self.name, "image": "python", "config": {}})

    def execute(self, code: str) -> None:
        body: dict[str, Any] = {"mode": "query", "code": code, "runId": None}
        while True:
            result = self._caller.call("POST", f"/session/{self.name}", body)["result"]
            if result["status"] == "finished":
                break
            body = {"mode": "continue", "code": "", "runId": result["runId"]}
        if result["exitCode"]:
            raise Refused(f"{code!r} ended with {result['exitCode']}: {result['console']}")

    def close(self) -> None:
        self._caller.call("DELETE", f"/session/{self.name}")
        self._caller.close()
