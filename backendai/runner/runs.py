"""The runs of one kernel: queue, output, and answers to those who read them."""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path

import trio

from backendai.core.execution import ConsoleItem, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.output import STEP, RunOutput
from backendai.runner.items import Piece
from backendai.runner.journal import Journal

#: Bytes of console text in one reply.
MAX_REPLY = 1 << 20
#: A reader that streams gets new output after this pause, in which the run often ends or more comes. Seconds.
_SETTLE = 0.03
#: ... or as soon as this many bytes have come.
_ENOUGH = 64 << 10
_MAX_QUEUED = 64
#: Finished runs kept for reading: how many, and how many bytes on disk together.
_MAX_KEPT = 64
_MAX_KEPT_BYTES = 256 << 20
#: Exit code of a run whose kernel went away (contract 02 §7.2).
KERNEL_GONE = 130


class RunRefused(Exception):
    """``code`` as in ``wire.runner.Refusal``."""

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(msg)
        self.code = code


class Run:
    """One execution: what it printed and how it stands."""

    def __init__(self, request: RunRequest, journal: Journal, limit: int) -> None:
        self.run_id = request.run_id
        self.code = request.code
        self.options = request.options
        self.is_batch = request.mode is RunMode.BATCH
        self.exit_code: int | None = None
        self.truncated = False
        self.input_options: dict[str, object] | None = None
        self.journal = journal
        self._limit = limit
        self._cursor = 0
        #: The last question of a reader without an index, and where its answer began.
        self._asked, self._asked_at = RunRequest(run_id="", mode=RunMode.CONTINUE), 0
        self._last_step = -1
        self._changed = trio.Event()

    @property
    def finished(self) -> bool:
        return self.exit_code is not None

    def append(self, piece: Piece) -> None:
        """Keep a piece of output; past the limit it is dropped and ``truncated`` is set."""
        if self.truncated or self.finished:
            return
        if not self.journal.append(piece):
            self.truncated = True
            self.note(f"\n[output limit of {self._limit} bytes reached: the run is interrupted]\n")
        self._notify()

    def note(self, text: str) -> None:
        """A line of our own for the user, on standard error; not subject to the limit."""
        self.journal.append_past_limit(Piece("stderr", text))

    def end_step(self, status: RunStatus, exit_code: int) -> None:
        """A step of a batch run is over; each reader is told between the output before and after."""
        self.journal.append_past_limit(Piece(STEP, status.value, str(exit_code)))
        self._last_step = self.journal.next_index - 1
        self._notify()

    def wait_for_input(self, *, is_password: bool) -> None:
        self.input_options = {"is_password": is_password}
        self._notify()

    def input_given(self) -> None:
        self.input_options = None

    def finish(self, exit_code: int) -> None:
        if not self.finished:
            self.exit_code = exit_code
            self.input_options = None
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def read(self, request: RunRequest) -> RunReply:
        """Answer from its index ``after``, or from where the last reader that had no index stopped.

        Such a reader comes by request and response, so it is answered once the run ends, wants input, fills a
        whole reply, or ``wait`` seconds have passed. One that asks the same again has not got the answer. A
        reader with an index streams: it is answered soon after anything new.
        """
        after = request.after
        start = self._place_of(request) if after is None else after
        with trio.move_on_after(request.wait):
            if after is None:
                await self._until(start, MAX_REPLY)
            else:
                await self._until(start, 1)
                with trio.move_on_after(_SETTLE):
                    await self._until(start, _ENOUGH)
        items, next_index = self.journal.read(start, MAX_REPLY)
        for number, item in enumerate(items):
            if item.kind == STEP:
                return self._reply_of_step(request, items[:number], item)
        self._answered(request, next_index)
        status, exit_code, options = RunStatus.CONTINUED, None, None
        if next_index >= self.journal.next_index:
            if self.finished:
                status, exit_code = RunStatus.FINISHED, self.exit_code
            elif self.input_options is not None:
                status, options = RunStatus.WAITING_INPUT, self.input_options
        return RunReply(
            run_id=self.run_id,
            status=status,
            exit_code=exit_code,
            options=options,
            items=items,
            next_index=next_index,
            truncated=self.truncated,
        )

    def _reply_of_step(
        self, request: RunRequest, before: tuple[ConsoleItem, ...], step: ConsoleItem
    ) -> RunReply:
        next_index = step.index + 1
        self._answered(request, next_index)
        return RunReply(
            run_id=self.run_id,
            status=RunStatus(step.data),
            exit_code=int(step.mime or 0),
            items=before,
            next_index=next_index,
            truncated=self.truncated,
        )

    def _place_of(self, request: RunRequest) -> int:
        if not request.asking or request.asking != self._asked.asking:
            self._asked_at = self._cursor
        self._asked = request
        return self._asked_at

    def _answered(self, request: RunRequest, next_index: int) -> None:
        if request is self._asked:  # else nobody waits for it any more
            self._cursor = next_index

    async def _until(self, start: int, pending: int) -> None:
        while (
            not self.finished
            and self.input_options is None
            and self._last_step < start
            and self.journal.pending_since(start) < pending
        ):
            await self._changed.wait()


class RunBook:
    """All runs the kernel has had, as far as they are kept, and those that wait for their turn."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._count = 0
        self._queue: deque[Run] = deque()
        self._arrived = trio.Event()
        self.current: Run | None = None

    def set_limit(self, limit: int) -> None:
        """Bytes of output per run, for runs to come."""
        self._limit = limit

    def find(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def submit(self, request: RunRequest) -> Run:
        """The run the request is about; a new one is put in the queue. Raises :class:`RunRefused`."""
        run = self._runs.get(request.run_id)
        if run is not None:
            return run
        if request.mode not in (RunMode.QUERY, RunMode.BATCH):
            raise RunRefused("no-such-run", f"unknown run: {request.run_id[:64]}")
        if len(self._queue) >= _MAX_QUEUED:
            raise RunRefused("too-many-runs", f"{_MAX_QUEUED} runs are waiting already")
        self._forget_old()
        self._count += 1
        journal = Journal(self._directory / f"{self._count}.items", self._limit)
        run = self._runs[request.run_id] = Run(request, journal, self._limit)
        self._queue.append(run)
        self._arrived.set()
        return run

    def forget(self, run_id: str) -> None:
        """Make room for another run of the same id."""
        if (run := self._runs.pop(run_id, None)) is not None:
            run.journal.remove()

    async def next(self) -> Run:
        """Take the next run in order of arrival."""
        while not self._queue:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._queue.popleft()

    def end_all(self, why: str) -> None:
        """The kernel is gone: finish what runs and what waits, each with a line that says why."""
        pending = ([self.current] if self.current else []) + list(self._queue)
        self._queue.clear()
        self.current = None
        for run in pending:
            if not run.finished:
                run.note(f"[{why}]\n")
                run.finish(KERNEL_GONE)

    def kept(self, limit: int) -> tuple[RunOutput, ...]:
        """What the runs printed, for the time when the kernel is no more: the newest first, at most ``limit``
        bytes of items together.
        """
        kept = []
        for run in reversed(self._runs.values()):
            first_index, content = run.journal.tail(limit)
            limit -= len(content)
            kept.append(
                RunOutput(
                    run_id=run.run_id,
                    exit_code=run.exit_code,
                    truncated=run.truncated,
                    first_index=first_index,
                    next_index=run.journal.next_index,
                    content=content,
                )
            )
        return tuple(kept)

    def _forget_old(self) -> None:
        size = sum(run.journal.size for run in self._runs.values())
        for run_id, run in list(self._runs.items()):
            if len(self._runs) < _MAX_KEPT and size <= _MAX_KEPT_BYTES:
                return
            if run.finished:
                size -= run.journal.size
                run.journal.remove()
                del self._runs[run_id]
