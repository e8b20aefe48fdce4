"""What a list query asks for: the filter and order languages (contract 06 §2) as typed trees, and selections.

Pure: what a column is called in SQL, and which values it takes, is known to ``storage.listing`` alone. The
filter language has no operator precedence: everything after a ``!`` or a combining operator is its right
operand, and parentheses decide. Text length, nesting and array sizes are bounded, so a hostile filter costs
little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

from backendai.core.errors import InvalidParameters

MAX_QUERY_TEXT = 8192
MAX_QUERY_DEPTH = 100
MAX_ARRAY_ITEMS = 1000
MAX_ORDER_ITEMS = 32


class QuerySyntaxError(InvalidParameters):
    """The text is not of the language, or names an unknown column; ``str()`` is the whole message."""

    prefix: ClassVar[str]

    def __init__(self, problem: str) -> None:
        super().__init__(f"{self.prefix}: {problem}")


class FilterError(QuerySyntaxError):
    prefix = "Query filter parsing error"


class OrderError(QuerySyntaxError):
    prefix = "Query ordering parsing error"


class Operator(StrEnum):
    EQUAL = "=="
    UNEQUAL = "!="
    GREATER = ">"
    GREATER_EQUAL = ">="
    LESS = "<"
    LESS_EQUAL = "<="
    CONTAINS = "contains"
    IN = "in"
    IS = "is"
    IS_NOT = "isnot"
    LIKE = "like"
    ILIKE = "ilike"


#: What may stand right of an operator. An array comes as a tuple.
Value = str | int | float | bool | None | tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    name: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Not:
    operand: Filter


@dataclass(frozen=True, slots=True)
class And:
    left: Filter
    right: Filter


@dataclass(frozen=True, slots=True)
class Or:
    left: Filter
    right: Filter


Filter = Comparison | Not | And | Or


@dataclass(frozen=True, slots=True)
class OrderItem:
    name: str
    ascending: bool = True


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted of each record: its plain fields, and records that belong to it.

    ``relations`` is keyed by where the related records are to be put in the answer: the relation's name, with
    its arguments when it has any, so that one relation can be asked for twice with different arguments.
    """

    fields: frozenset[str] = frozenset()
    relations: Mapping[str, Relation] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Plain fields and places of relations together."""
        return self.fields.union(self.relations)


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    arguments: Mapping[str, Any]
    selection: Selection


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>[+-]?\d+(?:\.\d+)?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>==|!=|>=|<=|[!&|()\[\],<>])
    )""",
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = frozenset(operator.value for operator in Operator)
_WORDS: dict[str, Value] = {"null": None, "true": True, "false": False}
_ORDER_ITEM = re.compile(r"\s*([+-]?)\s*([A-Za-z_][A-Za-z0-9_]*)\s*", re.ASCII)


def parse_filter(text: str) -> Filter:
    """Raises :class:`FilterError` with what was expected and where."""
    if len(text) > MAX_QUERY_TEXT:
        raise FilterError(f"longer than {MAX_QUERY_TEXT} characters")
    parser = _FilterParser(_tokens(text))
    tree = parser.expression(0)
    parser.expect_end()
    return tree


def parse_order(text: str) -> tuple[OrderItem, ...]:
    """An empty text orders nothing. Raises :class:`OrderError`."""
    if not text.strip():
        return ()
    if len(text) > MAX_QUERY_TEXT:
        raise OrderError(f"longer than {MAX_QUERY_TEXT} characters")
    parts = text.split(",")
    if len(parts) > MAX_ORDER_ITEMS:
        raise OrderError(f"more than {MAX_ORDER_ITEMS} columns")
    items = []
    for part in parts:
        match = _ORDER_ITEM.fullmatch(part)
        if match is None:
            raise OrderError(
                f"expected a column name, with or without + or - before it, got {part.strip()!r}"
            )
        items.append(OrderItem(match[2], ascending=match[1] != "-"))
    return tuple(items)


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            rest = text[position : position + 20]
            raise FilterError(f"unexpected character at position {position}: {rest!r}")
        kind = match.lastgroup or ""
        yield _Token(kind, match[kind], match.start(kind))
        position = match.end()
    yield _Token("end", "", end)


class _FilterParser:
    """Recursive descent over the tokens; ``depth`` counts every level, so the recursion is bounded."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens = tokens
        self._next = next(tokens)

    def expression(self, depth: int) -> Filter:
        self._bound(depth)
        if self._skip("!"):
            return Not(self.expression(depth + 1))
        left = self._operand(depth)
        if self._skip("&"):
            return And(left, self.expression(depth + 1))
        if self._skip("|"):
            return Or(left, self.expression(depth + 1))
        return left

    def expect_end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected("'&', '|' or the end")

    def _operand(self, depth: int) -> Filter:
        if self._skip("("):
            inner = self.expression(depth + 1)
            if not self._skip(")"):
                raise self._unexpected("')'")
            return inner
        if self._next.kind != "name":
            raise self._unexpected("a column name")
        name = self._take().text
        return Comparison(name, self._operator(), self._value(depth))

    def _operator(self) -> Operator:
        if self._next.text not in _OPERATORS:
            raise self._unexpected("an operator")
        return Operator(self._take().text)

    def _value(self, depth: int) -> Value:
        self._bound(depth)
        if self._skip("["):
            return self._array(depth + 1)
        token = self._next
        if token.kind == "string":
            self._take()
            return token.text[1:-1].replace('\\"', '"')
        if token.kind == "number":
            self._take()
            return float(token.text) if "." in token.text else int(token.text)
        if token.kind == "name" and token.text in _WORDS:
            self._take()
            return _WORDS[token.text]
        raise self._unexpected("a value")

    def _array(self, depth: int) -> tuple[Value, ...]:
        if self._skip("]"):
            return ()
        values = [self._value(depth)]
        while self._skip(","):
            if len(values) == MAX_ARRAY_ITEMS:
                raise FilterError(f"an array of more than {MAX_ARRAY_ITEMS} values")
            values.append(self._value(depth))
        if not self._skip("]"):
            raise self._unexpected("',' or ']'")
        return tuple(values)

    def _take(self) -> _Token:
        token = self._next
        self._next = next(self._tokens)
        return token

    def _skip(self, sign: str) -> bool:
        if self._next.kind == "sign" and self._next.text == sign:
            self._take()
            return True
        return False

    def _unexpected(self, expected: str) -> FilterError:
        token = self._next
        if token.kind == "end":
            return FilterError(f"expected {expected}, got the end of the text")
        return FilterError(f"expected {expected}, got {token.text[:40]!r} at position {token.position}")

    @staticmethod
    def _bound(depth: int) -> None:
        if depth > MAX_QUERY_DEPTH:
            raise FilterError(f"more than {MAX_QUERY_DEPTH} levels deep")
