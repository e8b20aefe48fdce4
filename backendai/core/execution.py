"""One run of code in a kernel, as every layer from the runner to the client sees it.

A run's output is a list of console items with consecutive indexes from 0. The runner keeps them on disk, so a
reader may come back at any time and read on from any index. Statuses and item kinds are the contract's (02
§7.2).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RunMode(StrEnum):
    QUERY = "query"
    BATCH = "batch"
    CONTINUE = "continue"
    INPUT = "input"
    COMPLETE = "complete"


class RunStatus(StrEnum):
    CONTINUED = "continued"
    CLEAN_FINISHED = "clean-finished"
    BUILD_FINISHED = "build-finished"
    WAITING_INPUT = "waiting-input"
    FINISHED = "finished"
    EXEC_TIMEOUT = "exec-timeout"


class ConsoleItem(msgspec.Struct, frozen=True, array_like=True):
    """``kind`` is stdout, stderr, html, log or media; ``mime`` is set for media only."""

    index: int
    kind: str
    data: str
    mime: str | None = None


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start a run, give it a line of input, or read on.

    ``after`` is the index from which to answer items; ``None`` means "where the last such reader stopped",
    the cursor that the REST interface needs because its clients send none. ``wait`` bounds, in seconds, how
    long the answer may be held back when nothing new has happened. Repeating a QUERY or BATCH with the run id
    of a known run does not start it again, it reads on: a lost answer is repaired by asking again. Without an
    ``after`` that takes the same ``asking``, any name for the question: its answer begins at the same place.
    """

    run_id: str
    mode: RunMode
    code: str = ""
    options: dict[str, object] = {}
    after: int | None = None
    asking: str = ""
    wait: float = 2.0


class RunReply(msgspec.Struct, frozen=True, kw_only=True):
    """``next_index`` is the ``after`` of the next read. ``truncated`` tells that a limit cut the output.

    Items before ``first_index`` are no longer there.
    """

    run_id: str
    status: RunStatus
    exit_code: int | None = None
    options: dict[str, object] | None = None
    items: tuple[ConsoleItem, ...] = ()
    first_index: int = 0
    next_index: int = 0
    truncated: bool = False


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``line`` and ``row``/``col`` as the clients send them (contract 02 §8); ``code`` is the whole cell."""

    code: str
    row: int = 0
    col: int = 0
    line: str = ""
    post: str = ""
