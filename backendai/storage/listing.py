"""List queries: which fields an aggregate has, how it is filtered, ordered, scoped and counted, as SQL.

A :class:`Listing` declares one aggregate; the modules ``listing_*`` hold them. Nothing that a client writes
becomes part of the SQL text: names of fields, columns and conditions are looked up in the declaration, values
travel as parameters. Each read is one statement, whatever the number of records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

from dateutil.parser import parse as parse_time

from backendai.bridges.postgres import Connection, Database
from backendai.core.errors import InvalidParameters
from backendai.core.query import (
    And,
    Comparison,
    Filter,
    FilterError,
    Not,
    Operator,
    Or,
    OrderError,
    OrderItem,
    Value,
)

Reader = Database | Connection
Record = dict[str, Any]
T = TypeVar("T")

#: Names of what a record carries beside its fields: its own key, and the key of the record it belongs to.
KEY = "_key"
PARENT = "_parent"
_TOTAL = "_total"


class Kind(Enum):
    """The SQL type that a column is compared as."""

    TEXT = "text"
    NUMBER = "numeric"
    BOOLEAN = "boolean"
    TIME = "timestamptz"
    UUID = "uuid"


@dataclass(frozen=True, slots=True)
class Column:
    """A column that can be filtered by. ``names`` maps the enum NAME a filter states to the stored value."""

    sql: str
    kind: Kind = Kind.TEXT
    names: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """How records of a listing belong to others: ``parent`` is the SQL of the other's key in ``source``."""

    source: str
    parent: str
    parent_type: str
    order: str


@dataclass(frozen=True, slots=True)
class Listing:
    #: What follows FROM.
    source: str
    #: SQL of the unique key, which also makes every order a total one.
    key: str
    #: Field name to SQL. A field may be any expression over ``source``.
    fields: Mapping[str, str]
    #: ORDER BY when the client states none.
    order: str
    #: Named restrictions, with ``{0}`` where the parameter goes.
    conditions: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Column] = field(default_factory=dict)
    orders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """``total`` counts what conditions and filter admit; it is 0 when no count was asked for."""

    rows: list[Record]
    total: int


async def read_page(
    reader: Reader,
    listing: Listing,
    fields: Collection[str],
    *,
    where: Mapping[str, Any],
    filter: Filter | None = None,
    order: Sequence[OrderItem] = (),
    limit: int,
    offset: int,
    count: bool = True,
) -> Page:
    """The records from ``offset`` on, at most ``limit``, and how many there are in all.

    Conditions whose value is None do not apply. Raises :class:`FilterError` and :class:`OrderError` for
    columns and values that do not fit the listing.
    """
    parameters = Parameters()
    restriction = _restriction(listing, where, filter, parameters)
    counting = f"SELECT count(*) FROM {listing.source} WHERE {restriction}"  # noqa: S608
    counting_arguments = list(parameters.values)
    ordering = _ordering(listing, order)
    columns = _columns(listing, fields)
    if count:
        columns += f", ({counting}) AS {_TOTAL}"
    statement = (
        f"SELECT {columns} FROM {listing.source} WHERE {restriction} ORDER BY {ordering}"  # noqa: S608
        f" LIMIT {parameters.add(limit, 'bigint')} OFFSET {parameters.add(offset, 'bigint')}"
    )
    found = await reader.fetch(statement, *parameters.values)
    rows = [dict(row) for row in found]
    if not count:
        return Page(rows, 0)
    if rows:
        return Page(rows, rows[0][_TOTAL])
    if offset == 0 and limit > 0:
        return Page(rows, 0)
    return Page(rows, await reader.fetchval(counting, *counting_arguments))


async def read_all(
    reader: Reader, listing: Listing, fields: Collection[str], *, where: Mapping[str, Any], limit: int
) -> list[Record]:
    """The first ``limit`` records in the listing's own order."""
    page = await read_page(reader, listing, fields, where=where, limit=limit, offset=0, count=False)
    return page.rows


async def read_linked(
    reader: Reader,
    listing: Listing,
    link: Link,
    fields: Collection[str],
    *,
    parents: Sequence[str],
    where: Mapping[str, Any],
    limit: int,
) -> list[Record]:
    """The records that belong to any of ``parents``; which one, each tells under ``PARENT``."""
    parameters = Parameters()
    restriction = _restriction(listing, where, None, parameters)
    among = parameters.add(list(parents), f"{link.parent_type}[]")
    statement = (
        f"SELECT {link.parent}::text AS {PARENT}, {_columns(listing, fields)} FROM {link.source}"  # noqa: S608
        f" WHERE {link.parent} = ANY({among}) AND {restriction}"
        f" ORDER BY {link.order}, {listing.key} LIMIT {parameters.add(limit, 'bigint')}"
    )
    found = await reader.fetch(statement, *parameters.values)
    return [dict(row) for row in found]


class Parameters:
    """The values of a statement, in the order of their placeholders."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any, sql_type: str | None = None) -> str:
        """Its placeholder, cast to ``sql_type``. InvalidParameters for text PostgreSQL cannot hold."""
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and not _storable(text):
                raise InvalidParameters("A text has characters that cannot be stored.")
        self.values.append(value)
        placeholder = f"${len(self.values)}"
        return f"{placeholder}::{sql_type}" if sql_type else placeholder


def _storable(text: str) -> bool:
    if "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _columns(listing: Listing, fields: Collection[str]) -> str:
    chosen = [f"{listing.fields[name]} AS {name}" for name in sorted(fields)]
    return ", ".join([f"{listing.key}::text AS {KEY}", *chosen])


def _restriction(
    listing: Listing, where: Mapping[str, Any], filter: Filter | None, parameters: Parameters
) -> str:
    parts = [
        listing.conditions[name].format(parameters.add(value))
        for name, value in where.items()
        if value is not None
    ]
    if filter is not None:
        parts.append(_filter_sql(filter, listing.filters, parameters))
    return " AND ".join(f"({part})" for part in parts) or "TRUE"


def _ordering(listing: Listing, order: Sequence[OrderItem]) -> str:
    if not order:
        return f"{listing.order}, {listing.key}"
    parts = []
    for item in order:
        column = listing.orders.get(item.name)
        if column is None:
            raise OrderError(f"('Unknown/unsupported field name', {item.name!r})")
        parts.append(f"{column} {'ASC' if item.ascending else 'DESC'}")
    return ", ".join([*parts, listing.key])


# -- filters -------------------------------------------------------------------------------------------------

_SQL_OPERATOR = {
    Operator.EQUAL: "=",
    Operator.UNEQUAL: "<>",
    Operator.GREATER: ">",
    Operator.GREATER_EQUAL: ">=",
    Operator.LESS: "<",
    Operator.LESS_EQUAL: "<=",
}


def _filter_sql(tree: Filter, columns: Mapping[str, Column], parameters: Parameters) -> str:
    match tree:
        case Not(operand):
            return f"NOT ({_filter_sql(operand, columns, parameters)})"
        case And(left, right):
            return (
                f"({_filter_sql(left, columns, parameters)}) AND ({_filter_sql(right, columns, parameters)})"
            )
        case Or(left, right):
            return (
                f"({_filter_sql(left, columns, parameters)}) OR ({_filter_sql(right, columns, parameters)})"
            )
        case Comparison(name, operator, value):
            column = columns.get(name)
            if column is None:
                raise FilterError(f"('Unknown/unsupported field name', {name!r})")
            return _comparison_sql(name, column, operator, value, parameters)


def _joined(
    verb: str, left: Filter, right: Filter, columns: Mapping[str, Column], parameters: Parameters
) -> str:
    return f"({_filter_sql(left, columns, parameters)}) {verb} ({_filter_sql(right, columns, parameters)})"


def _comparison_sql(
    name: str, column: Column, operator: Operator, value: Value, parameters: Parameters
) -> str:
    sql_type = column.kind.value
    if operator in (Operator.IS, Operator.IS_NOT):
        return _identity_sql(name, column, operator, value)
    if operator is Operator.IN:
        if not isinstance(value, tuple):
            raise FilterError(f"{name}: 'in' takes an array")
        items = [_converted(name, column, item) for item in value]
        return f"{column.sql} = ANY({parameters.add(items, f'{sql_type}[]')})"
    if operator in (Operator.CONTAINS, Operator.LIKE, Operator.ILIKE):
        if column.kind is not Kind.TEXT or column.names is not None or not isinstance(value, str):
            raise FilterError(f"{name}: {operator.value!r} compares text with text")
        verb = "ILIKE" if operator is Operator.ILIKE else "LIKE"
        pattern = f"%{value}%" if operator is Operator.CONTAINS else value
        return f"{column.sql} {verb} {parameters.add(_text(name, pattern), 'text')}"
    if value is None:
        if operator is Operator.EQUAL:
            return f"{column.sql} IS NULL"
        if operator is Operator.UNEQUAL:
            return f"{column.sql} IS NOT NULL"
    converted = _converted(name, column, value)
    return f"{column.sql} {_SQL_OPERATOR[operator]} {parameters.add(converted, sql_type)}"


def _identity_sql(name: str, column: Column, operator: Operator, value: Value) -> str:
    negation = " NOT" if operator is Operator.IS_NOT else ""
    if value is None:
        return f"{column.sql} IS{negation} NULL"
    if isinstance(value, bool) and column.kind is Kind.BOOLEAN:
        return f"{column.sql} IS{negation} {'TRUE' if value else 'FALSE'}"
    raise FilterError(f"{name}: {operator.value!r} takes null, or true and false where the column is boolean")


def _converted(name: str, column: Column, value: Value) -> Any:
    """The value as a parameter of the column's type."""
    if column.names is not None:
        stored = column.names.get(value) if isinstance(value, str) else None
        if stored is None:
            raise FilterError(f"{name}: {value!r} is not one of {', '.join(column.names)}")
        return stored
    match column.kind, value:
        case Kind.TEXT, str():
            return _text(name, value)
        case Kind.BOOLEAN, bool():
            return value
        case Kind.NUMBER, int() | float() if not isinstance(value, bool):
            return Decimal(str(value))
        case Kind.UUID, str():
            try:
                return UUID(value)
            except ValueError as error:
                raise FilterError(f"{name}: {value!r} is not a UUID") from error
        case Kind.TIME, str():
            try:
                moment = parse_time(value)
                return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            except (ValueError, OverflowError) as error:
                raise FilterError(f"{name}: {value!r} is not a date") from error
    raise FilterError(f"{name}: {value!r} cannot be compared with a {column.kind.name.lower()} column")


def _text(name: str, value: str) -> str:
    if not _storable(value):
        raise FilterError(f"{name}: the text has characters that cannot be stored")
    return value
