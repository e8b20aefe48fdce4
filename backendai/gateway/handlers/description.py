"""``/openapi.json``: this API in its own words."""

from __future__ import annotations

from collections.abc import Sequence

from backendai.gateway.call import Call
from backendai.gateway.openapi.document import document_of
from backendai.gateway.reply import JSON, Reply
from backendai.gateway.route import Route, SocketRoute


def described(routes: Sequence[Route], sockets: Sequence[SocketRoute]) -> tuple[Route, ...]:
    """``routes``, and one that describes them all, itself included."""
    document = document_of(lambda: (every, sockets))

    async def description(_call: Call) -> Reply:
        return Reply(200, document(), (JSON,))

    every = (*routes, Route(method="GET", path="/openapi.json", handler=description, signed=False))
    return every
