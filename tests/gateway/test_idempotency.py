"""The Idempotency-Key header of a create."""

from __future__ import annotations

from fakes import Fakes
from gateway_client import SigningClient

BODY = {"name": "my-sess", "image": "python", "config": {}}


async def send(client: SigningClient, body: object, key: str, path: str = "/session") -> int:
    return (await client("POST", path, body, headers={"Idempotency-Key": key})).status_code


async def test_a_request_keeps_its_fingerprint(client: SigningClient, fakes: Fakes) -> None:
    seen = []
    for body, path in (
        (BODY, "/session"),
        (dict(reversed(BODY.items())), "/session"),
        ({**BODY, "tag": "x"}, "/session"),
        (BODY, "/kernel"),
    ):
        assert await send(client, body, "key-1", path) == 201
        assert fakes.sessions.idempotency is not None
        assert fakes.sessions.idempotency.key == "key-1"
        seen.append(fakes.sessions.idempotency.fingerprint)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    await client("POST", "/session", BODY)
    assert fakes.sessions.idempotency is None


async def test_refusals(client: SigningClient) -> None:
    assert await send(client, BODY, "used") == 422
    for wrong in ("", "x" * 256, "a b"):
        assert await send(client, BODY, wrong) == 400
