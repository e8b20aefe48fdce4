"""What a session went through, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Passage:
    """A session had ``status`` from ``at`` on."""

    status: str
    at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class Node:
    """A session in a graph of dependencies."""

    session_id: UUID
    name: str
    status: str
    changed: datetime
    depends_on: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Dependency:
    """A session with what it depends on, as a tree."""

    session: Node
    depends_on: tuple[Dependency, ...]
