"""Reading parameters the way clients send them (contract 01 §5.1).

A body is JSON whatever the method and content type; without one the query string counts. :class:`Fields`
takes values out by any of their names, collects everything that is wrong, and reports it at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from backendai.core.errors import InvalidParameters

T = TypeVar("T")

_TRUE = frozenset({"t", "true", "y", "yes", "on", "1", "1.0"})
_FALSE = frozenset({"false", "n", "no", "off", "0", "0.0", "none"})
_MAX_QUERY_FIELDS = 100
_MISSING: Any = object()
_NOTHING: Mapping[str, Any] = {}

_decode = msgspec.json.Decoder().decode


def read_parameters(body: bytes, query: bytes) -> dict[str, Any]:
    """All parameters of a request. Raises :class:`InvalidParameters` if they cannot be read."""
    if body.strip():
        return read_object(body, "body")
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS
        )
    except ValueError:
        raise InvalidParameters("Malformed query string") from None
    values: dict[str, Any] = {}
    for name, value in pairs:
        values.setdefault(name, value)
    if any("\x00" in text for pair in values.items() for text in pair):
        raise InvalidParameters("NUL characters are not taken")
    return values


def read_object(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object without NUL characters, which neither databases nor processes take as text.

    Lone surrogates are no JSON for the decoder. Raises :class:`InvalidParameters`, which names ``what``.
    """
    try:
        values = _decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidParameters(f"Malformed {what}") from None
    if not isinstance(values, dict):
        raise InvalidParameters(f"Malformed {what}")
    # JSON can write it in this one way only, so nearly all bodies are spared the walk.
    escape = b"\\u0000" if isinstance(text, bytes) else "\\u0000"
    if escape in text and _holds_nul(values):  # type: ignore[operator]
        raise InvalidParameters("NUL characters are not taken")
    return values


def _holds_nul(value: Any) -> bool:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                if "\x00" in text:
                    return True
            case dict() as mapping:
                waiting += mapping
                waiting += mapping.values()
            case list() as items:
                waiting += items
    return False


class Fields:
    """Takes typed values out of a mapping; :meth:`check` raises with every problem found on the way.

    Each method takes the names a value may go by; the first that is present counts. Null and absence give the
    default: that of ``defaults``, else that of the method. Keys nobody asks for are ignored, so that newer
    clients can talk to us.
    """

    def __init__(
        self, values: Mapping[str, Any], prefix: str = "", defaults: Mapping[str, Any] = _NOTHING
    ) -> None:
        self._values = values
        self._prefix = prefix
        self._defaults = defaults
        self.problems: dict[str, str] = {}

    def check(self) -> None:
        if self.problems:
            raise InvalidParameters.of(self.problems)

    def refuse(self, name: str, message: str) -> None:
        self.problems[self._prefix + name] = message

    def _take(self, names: tuple[str, ...], convert: Callable[[Any], T], default: T, required: bool) -> T:
        name, value = self._find(names)
        if value is _MISSING and required:
            self.refuse(name, "is required")
        if value is _MISSING or (value is None and not required):
            return default
        try:
            return convert(value)
        except ValueError as error:
            self.refuse(name, str(error))
            return default

    def _find(self, names: tuple[str, ...]) -> tuple[str, Any]:
        found: tuple[str, Any] = (names[0], _MISSING)
        for values in (self._values, self._defaults):
            given = next((name for name in names if name in values), None)
            if given is not None:
                found = given, values[given]
                if found[1] is not None:
                    break
        return found

    def text(
        self,
        *names: str,
        default: str = "",
        required: bool = False,
        limit: int = 4096,
        pattern: str | None = None,
    ) -> str:
        return self._take(names, _text(limit, pattern), default, required)

    def optional_text(self, *names: str, limit: int = 4096, blank: bool = False) -> str | None:
        return self._take(names, _text(limit, None, blank=blank), None, False)

    def free_text(self, *names: str, limit: int, required: bool = False) -> str:
        """Text that may be empty, such as code."""
        return self._take(names, _text(limit, None, blank=True), "", required)

    def boolean(self, *names: str, default: bool = False) -> bool:
        return self._take(names, _boolean, default, False)

    def integer(self, *names: str, default: int = 0, minimum: int | None = None, maximum: int = 2**31) -> int:
        return self._take(names, _integer(minimum, maximum), default, False)

    def optional_number(self, *names: str) -> float | None:
        return self._take(names, _number, None, False)

    def choice(self, *names: str, default: str, allowed: Iterable[str], kind: str) -> str:
        members = frozenset(allowed)

        def convert(value: Any) -> str:
            if value not in members if isinstance(value, str) else True:
                raise ValueError(f"value is not a valid member of {kind}")
            return str(value)

        return self._take(names, convert, default, False)

    def mapping(self, *names: str) -> dict[str, Any]:
        return self._take(names, _mapping, {}, False)

    def text_mapping(self, *names: str) -> dict[str, str]:
        return self._take(names, _text_mapping, {}, False)

    def texts(self, *names: str) -> tuple[str, ...]:
        return self._take(names, _texts, (), False)

    def integers(self, *names: str, minimum: int, maximum: int) -> tuple[int, ...]:
        item = _integer(minimum, maximum)
        return self._take(names, lambda value: tuple(item(each) for each in _list(value)), (), False)

    def uuid(self, *names: str) -> UUID | None:
        return self._take(names, _uuid, None, False)

    def uuids(self, *names: str, most: int) -> tuple[UUID, ...]:
        def convert(value: Any) -> tuple[UUID, ...]:
            values = _list(value)
            if len(values) > most:
                raise ValueError(f"has more than {most} items")
            return tuple(_uuid(each) for each in values)

        return self._take(names, convert, (), required=True)

    def custom(self, *names: str, convert: Callable[[Any], T], default: T, required: bool = False) -> T:
        """Like the others, for a ``convert`` that raises ValueError with a message for the client."""
        return self._take(names, convert, default, required)

    def inner(self, *names: str) -> Fields:
        """The fields of an object among these; what is wrong with them is reported with the rest."""
        given = Fields(self._values, self._prefix)
        defaults = Fields(self._defaults).mapping(*names)
        inner = Fields(given.mapping(*names), f"{self._prefix}{names[0]}.", defaults)
        self.problems.update(given.problems)
        inner.problems = self.problems
        return inner


def _text(limit: int, pattern: str | None, *, blank: bool = False) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("value is not a string")
        if not value and not blank:
            raise ValueError("blank value is not allowed")
        if len(value) > limit:
            raise ValueError(f"String is longer than {limit} characters")
        if "\x00" in value:
            raise ValueError("value contains a NUL character")
        if pattern is not None and re.fullmatch(pattern, value, re.ASCII) is None:
            raise ValueError(f"does not match pattern {pattern}")
        return value

    return convert


def _boolean(value: Any) -> bool:
    text = str(value).lower() if isinstance(value, str | int | float) else ""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("value can't be converted to Bool")


def _integer(minimum: int | None, maximum: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str | float):
            raise ValueError("value can't be converted to int")
        if isinstance(value, str) and len(value) > 20:
            raise ValueError("value can't be converted to int")
        try:
            number = int(value)
        except (ValueError, OverflowError):
            raise ValueError("value can't be converted to int") from None
        if number != value and not isinstance(value, str):
            raise ValueError("value can't be converted to int")
        if minimum is not None and number < minimum:
            raise ValueError(f"value is less than {minimum}")
        if number > maximum:
            raise ValueError(f"value is greater than {maximum}")
        return number

    return convert


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("value can't be converted to float")
    number = float(value)
    if not 0 <= number < 1e12:
        raise ValueError("value is out of range")
    return number


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("value is not a list")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    convert = _text(4096, None)
    return tuple(convert(each) for each in _list(value))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("value is not a dict")
    return value


def _text_mapping(value: Any) -> dict[str, str]:
    result = {}
    for name, each in _mapping(value).items():
        # Clients write numbers and booleans where the environment wants text.
        if isinstance(each, dict | list):
            raise ValueError(f"value of {name[:64]} is not a string")
        if each is not None:
            result[name] = each if isinstance(each, str) else str(each)
    if any("\x00" in text for pair in result.items() for text in pair):
        raise ValueError("value contains a NUL character")
    return result


def _uuid(value: Any) -> UUID:
    try:
        return UUID(str(value))
    except ValueError:
        raise ValueError("cannot convert value to UUID") from None
