"""What a route's code does not say about it, for its entry in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from backendai.core.errors import BackendError


@dataclass(frozen=True, slots=True)
class Media:
    """A body that is not JSON of a known shape."""

    media_type: str
    about: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is spoken after an upgrade to WebSocket."""

    about: str


@dataclass(frozen=True, slots=True)
class Either:
    """JSON of one of several shapes."""

    shapes: tuple[type, ...]


#: A type that msgspec can make a JSON schema of, several, some other medium, an upgrade, or None for no body.
Answer = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Types are TypedDicts with the names of the wire; their docstrings and metadata become descriptions."""

    summary: str
    #: More about it, in CommonMark.
    about: str = ""
    tag: str
    #: Parameters in the query string.
    query: type | None = None
    #: Parameters in the body; with no body at all they may also stand in the query string.
    body: Answer = None
    replies: Mapping[int, Answer] = field(default_factory=dict)
    #: Expected refusals besides those that follow from the route: signature, gate, session, body.
    refusals: tuple[type[BackendError], ...] = ()
    #: ``owner_access_key`` makes it act for another account.
    for_others: bool = False
    #: The header ``Idempotency-Key`` makes a repetition do nothing new.
    repeatable: bool = False


#: What can be done with a session by its owner, or for him.
about_session = partial(Operation, tag="sessions", for_others=True)
