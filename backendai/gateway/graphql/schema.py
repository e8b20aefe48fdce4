"""The schema, built once from ``schema.graphql``, and how its scalars travel (contract 06 §4.1)."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import UUID

from graphql import GraphQLError, GraphQLScalarType, GraphQLSchema, build_schema

_INT32 = range(-(2**31), 2**31)
_INT53 = range(-(2**53) + 1, 2**53)


@cache
def schema() -> GraphQLSchema:
    """Building takes some 30 ms, so it waits for the first question."""
    built = build_schema(files(__package__).joinpath("schema.graphql").read_text(encoding="utf-8"))
    for name, write, read in (
        ("UUID", str, _read_uuid),
        ("DateTime", _write_time, _read_time),
        ("JSONString", _write_json, _read_json),
        ("BigInt", _write_big, _read_big),
    ):
        scalar = built.type_map[name]
        if not isinstance(scalar, GraphQLScalarType):
            raise TypeError(f"{name} is not a scalar")
        scalar.coerce_output_value = write
        scalar.coerce_input_value = read
    return built


def _read_uuid(value: Any) -> str:
    """As text, the form in which identifiers go on to the database."""
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphQLError("badly formed hexadecimal UUID string") from error


def _write_time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise GraphQLError(f"DateTime cannot represent {type(value).__name__}")


def _read_time(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (ValueError, TypeError) as error:
        raise GraphQLError("DateTime cannot represent a text that is not ISO 8601") from error


def _write_json(value: Any) -> str:
    """Text from the database is JSON text already; all else is written with the separators clients expect."""
    return value if isinstance(value, str) else json.dumps(value)


def _read_json(value: Any) -> Any:
    if not isinstance(value, str):
        raise GraphQLError("JSONString must be a string that holds JSON text")
    try:
        return json.loads(value)
    except ValueError as error:
        raise GraphQLError(f"JSONString holds text that is not JSON: {error}") from error


def _write_big(value: Any) -> int | float:
    number = int(value)
    if number in _INT32:
        return number
    if number in _INT53:
        return float(number)
    raise GraphQLError(f"BigInt cannot represent value: {number}")


def _read_big(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or int(value) != value:
        raise GraphQLError("BigInt must be an integer")
    if int(value) not in _INT53:
        raise GraphQLError("BigInt must be within 53 bits")
    return int(value)
