"""Where a bug ends that only one of many may feel: one message, request, stream or connection."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any


class Containment:
    """A block in which a bug ends, told with ``ids`` by ``report``, a method of a logger.

    For the loops of a process that serve many, and only there: everywhere else a bug travels up and ends the
    part that owns it. Whoever uses this tells the peer. Cancelled passes, also within a group.
    """

    __slots__ = ("_event", "_ids", "_passing", "_report", "error")

    def __init__(
        self, report: Callable[..., Any], event: str, *, passing: tuple[type[Exception], ...] = (), **ids: Any
    ) -> None:
        self._report = report
        self._event = event
        self._passing = passing
        self._ids = ids
        #: What ended the block and went no further.
        self.error: Exception | None = None

    def __enter__(self) -> Containment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, self._passing):
            return False
        self.error = error
        self._report(self._event, exc_info=error, **self._ids)
        return True
