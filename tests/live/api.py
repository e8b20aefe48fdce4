"""The REST interface as a client sees it, with its own signature code: the product must not check itself."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import httpx

from live.service import Service

API_VERSION = "v6.20220315"


def signed_headers(
    method: str, target: str, host: str, media_type: str, keys: tuple[str, str], now: datetime
) -> dict[str, str]:
    """What a client of API version 4 or later adds to a request: date, version and HMAC-SHA256 signature.

    ``target`` is the request target as sent, ``keys`` access and secret key; bodies are not signed.
    """
    access_key, secret_key = keys
    text = "\n".join(
        [
            method,
            target,
            now.isoformat(),
            f"host:{host}",
            f"content-type:{media_type}",
            f"x-backendai-version:{API_VERSION}",
            hashlib.sha256(b"").hexdigest(),
        ]
    )
    key = secret_key.encode()
    for part in (now.strftime("%Y%m%d"), host):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {
        "Date": now.isoformat(),
        "X-BackendAI-Version": API_VERSION,
        "Authorization": f"BackendAI signMethod=HMAC-SHA256, credential={access_key}:{signature}",
    }


class Signature(httpx.Auth):
    """Signs each request as it leaves."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._keys = (access_key, secret_key)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        media_type = request.headers.get("Content-Type", "application/octet-stream").split(";")[0]
        target, host = request.url.raw_path.decode(), request.headers["Host"]
        request.headers.update(
            signed_headers(request.method, target, host, media_type, self._keys, datetime.now(UTC))
        )
        yield request


class Api:
    """The few calls that tests of the whole product make. Every refusal raises ``httpx.HTTPStatusError``."""

    def __init__(self, service: Service, *, admin: bool = False, timeout: float = 60.0) -> None:
        self.http = httpx.Client(
            base_url=service.endpoint, auth=Signature(*service.keys(admin=admin)), timeout=timeout
        )

    @classmethod
    def like(cls, other: Api) -> Api:
        """Another connection with the same keys; for use beside a stream."""
        copy = cls.__new__(cls)
        copy.http = httpx.Client(
            base_url=other.http.base_url, auth=other.http.auth, timeout=other.http.timeout
        )
        return copy

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The parsed answer, or None when there is none."""
        response = self.http.request(method, path, json=body)
        response.raise_for_status()
        return response.json() if response.content else None

    def create(self, name: str, image: str = "python", **more: object) -> dict[str, Any]:
        wish = {"name": name, "image": image, "config": {}, **more}
        answer: dict[str, Any] = self.call("POST", "/session", wish)
        return answer

    def info(self, session: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("GET", f"/session/{session}")
        return answer

    def status(self, session: str) -> str:
        """Status of a live session; GONE where there is none of that name."""
        response = self.http.get(f"/session/{session}")
        if response.status_code == 404:
            return "GONE"
        response.raise_for_status()
        return str(response.json()["status"])

    def destroy(self, session: str) -> None:
        self.call("DELETE", f"/session/{session}")

    def begin(self, session: str, code: str, run_id: str | None = None) -> dict[str, Any]:
        """The first answer to a run; it may well still go on."""
        return self._execute(session, mode="query", code=code, runId=run_id)

    def go_on(self, session: str, run_id: str, line: str | None = None) -> dict[str, Any]:
        """The next answer to a run, after giving it ``line`` if that is what it waits for."""
        mode = "continue" if line is None else "input"
        return self._execute(session, mode=mode, code=line or "", runId=run_id)

    def run(self, session: str, code: str) -> tuple[str, str, int | None]:
        """Run to the end; answers what was printed on stdout and stderr, and the exit code."""
        return self.finish(session, self.begin(session, code))

    def finish(self, session: str, result: dict[str, Any]) -> tuple[str, str, int | None]:
        """As :meth:`run`, for a run whose first answer is ``result``."""
        printed = {"stdout": "", "stderr": ""}
        while True:
            for kind, data in result["console"]:
                if kind in printed:
                    printed[kind] += data
            if result["status"] == "finished":
                return printed["stdout"], printed["stderr"], result["exitCode"]
            result = self.go_on(session, result["runId"])

    def _execute(self, session: str, **body: object) -> dict[str, Any]:
        result: dict[str, Any] = self.call("POST", f"/session/{session}", body)["result"]
        return result
