"""The two GraphQL endpoints: request body in, answer in the envelope of new or of legacy clients out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from graphql import GraphQLError

from backendai.core.account import Principal
from backendai.core.errors import InvalidParameters
from backendai.gateway.errors import GraphQLRefused
from backendai.gateway.graphql.document import QueryRefused
from backendai.gateway.graphql.execute import execute
from backendai.gateway.parameters import read_parameters
from backendai.manager.directory import DirectoryService

_KEYS = frozenset({"query", "variables", "operation_name", "operationName"})
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class _Request:
    query: str
    variables: Mapping[str, Any]
    operation_name: str | None


async def answer(
    directory: DirectoryService, principal: Principal, body: bytes, *, legacy: bool
) -> tuple[int, bytes, str]:
    """Status, body and content type for one request (contract 06 §1).

    A body that is no GraphQL request raises :class:`InvalidParameters`. Errors of the query itself are part
    of the answer for new clients; the legacy envelope has no place for them beside data, so there they raise
    :class:`GraphQLRefused`.
    """
    request = _read_request(body)
    try:
        result = await execute(directory, principal, request.query, request.variables, request.operation_name)
    except QueryRefused as refusal:
        errors = _formatted(refusal.errors)
        if legacy:
            raise GraphQLRefused(data=errors) from refusal
        return 200, msgspec.json.encode({"errors": errors}), _JSON
    errors = _formatted(result.errors)
    if legacy:
        if errors:
            raise GraphQLRefused(data=errors)
        return 200, msgspec.json.encode(result.data), _JSON
    document = {"errors": errors, "data": result.data} if errors else {"data": result.data}
    return 200, msgspec.json.encode(document), _JSON


def _read_request(body: bytes) -> _Request:
    if not body.strip():
        raise InvalidParameters("Malformed body")
    values = read_parameters(body, b"")
    problems = {name: f"{name} is not allowed key" for name in values if name not in _KEYS}
    query = values.get("query")
    variables = values.get("variables")
    name = values.get("operation_name", values.get("operationName"))
    if "query" not in values:
        problems["query"] = "is required"
    elif not isinstance(query, str):
        problems["query"] = "value is not a string"
    if not isinstance(variables, dict | None):
        problems["variables"] = "value is not a dict"
    if not isinstance(name, str | None):
        problems["operation_name"] = "value is not a string"
    if problems:
        raise InvalidParameters.of(problems)
    return _Request(str(query), variables or {}, name or None)


def _formatted(errors: Sequence[GraphQLError]) -> list[Any]:
    return [error.formatted for error in errors]
