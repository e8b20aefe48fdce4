"""Bodies in YAML, of which every scalar is a string (contract 01 §5.1).

Read from the parser's events rather than composed by PyYAML: no tag is acted on, aliases are refused before
they could multiply anything, and depth is bounded without recursion.
"""

from __future__ import annotations

from typing import Any

import yaml

from backendai.core.errors import InvalidParameters

#: The media type.
YAML = "text/yaml"
#: Bytes; that much takes some hundredths of a second at worst, during which nobody else is served.
MAX_YAML = 64 << 10
_MAX_DEPTH = 64
#: What stands for nothing when it is not quoted.
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
#: Both do the same; with libyaml it takes a tenth of the time.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_yaml(text: bytes, what: str = "body", *, nulls: bool = False) -> Any:
    """The one document in ``text``, made of dicts, lists and strings, and with ``nulls`` of None.

    Raises :class:`InvalidParameters`, which names ``what``.
    """
    if len(text) > MAX_YAML:
        raise InvalidParameters(f"At most {MAX_YAML} bytes of YAML are taken, send JSON")
    try:
        return _build(text.decode(), nulls)
    except (yaml.YAMLError, UnicodeError, _Refused) as error:
        raise InvalidParameters(f"Malformed {what}") from error


class _Refused(Exception):
    """YAML that is well-formed and nothing we take."""


class _Open:
    """A sequence or mapping that is not closed yet."""

    __slots__ = ("key", "value")

    def __init__(self, value: list[Any] | dict[str, Any]) -> None:
        self.value = value
        #: The key whose value comes next, in a mapping.
        self.key: str | None = None

    def add(self, item: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(item)
        elif self.key is not None:
            self.value[self.key] = item
            self.key = None
        elif isinstance(item, str):
            self.key = item
        else:
            raise _Refused("a key is not a string")


def _build(text: str, nulls: bool) -> Any:
    documents: list[Any] = []
    path = [_Open(documents)]
    for event in yaml.parse(text, Loader=_LOADER):
        if getattr(event, "anchor", None) is not None:
            raise _Refused("anchors and aliases")
        match event:
            case yaml.ScalarEvent():
                nothing = nulls and event.implicit[0] and event.value in _NULLS
                path[-1].add(None if nothing else event.value)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(path) > _MAX_DEPTH:
                    raise _Refused("too deep")
                path.append(_Open([] if isinstance(event, yaml.SequenceStartEvent) else {}))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                done = path.pop().value
                path[-1].add(done)
    if len(documents) != 1:
        raise _Refused("not one document")
    return documents[0]
