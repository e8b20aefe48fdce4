"""Work that goes on after the request that asked for it was answered."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec


class TaskStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    #: Done, but for what ``TaskState.errors`` tells.
    PARTIAL_SUCCESS = "partial_success"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task has come. The unit of progress is the task's own; a total of 0 is not known (yet)."""

    id: UUID
    status: TaskStatus
    current_progress: float = 0
    total_progress: float = 0
    message: str | None = None
    errors: tuple[str, ...] = ()
