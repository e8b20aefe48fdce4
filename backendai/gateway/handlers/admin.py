"""``/admin``: GraphQL, in the envelopes of new and old clients (contract 06 §1)."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from backendai.gateway.call import Call
from backendai.gateway.graphql.endpoint import answer
from backendai.gateway.reply import Reply
from backendai.gateway.route import VERSIONED, Gate, Route


async def graphql(call: Call, *, legacy: bool) -> Reply:
    status, body, content_type = await answer(
        call.services.directory, call.principal, call.json_body, legacy=legacy
    )
    return Reply(status, body, ((b"content-type", content_type.encode()),))


def may_change(body: bytes) -> bool:
    """Whether a GraphQL request could hold a mutation. Looks at the decoded text, JSON can hide a word."""
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    query = document.get("query") if isinstance(document, dict) else None
    return not isinstance(query, str) or "mutation" in query


ROUTES = tuple(
    Route(
        method="POST",
        path=f"{root}/admin/{path}",
        handler=partial(graphql, legacy=legacy),
        gate=Gate.READ,
        changes=may_change,
        legacy=legacy,
    )
    for root in ("", VERSIONED)
    for path, legacy in (("gql", False), ("graphql", True))
)
