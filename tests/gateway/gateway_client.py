"""Signing requests as official clients do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
from fakes import SECRETS, USER

from backendai.core import signing
from backendai.core.account import Principal, Secret


def sign_headers(
    method: str,
    target: str,
    host: str,
    *,
    principal: Principal = USER,
    content_type: str | None = "text/plain",
    version: str = "v6.20220315",
    body: bytes = b"",
    date: str | None = None,
    secret: str | None = None,
) -> dict[str, str]:
    date = date or datetime.now(UTC).isoformat()
    signature = signing.sign(
        signing.SignedRequest(
            method=method,
            target=target,
            date_text=date,
            date=signing.parse_date(date),
            host=host,
            content_type=content_type,
            version_header="x-backendai-version",
            version=version,
            body=body,
        ),
        Secret(secret or SECRETS[principal.access_key]),
    )
    headers = {
        "Date": date,
        "X-BackendAI-Version": version,
        "Authorization": f"BackendAI signMethod=HMAC-SHA256, credential={principal.access_key}:{signature}",
    }
    if content_type is not None:
        headers["Content-Type"] = content_type
    return headers


class SigningClient:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.host = http.base_url.netloc.decode()

    async def __call__(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        **signing_options: Any,
    ) -> httpx.Response:
        content = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        signing_options.setdefault("content_type", "application/json" if content else "text/plain")
        signed = sign_headers(method, target, self.host, body=content, **signing_options)
        return await self.http.request(method, target, content=content, headers=signed | (headers or {}))
