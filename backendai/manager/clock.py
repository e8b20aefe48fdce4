"""Wall time, for what is written down; durations are measured with ``trio.current_time()``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def wall_time() -> datetime:
    return datetime.now(UTC)
