"""Background tasks: run here, followed from anywhere (contract 03 §8)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import structlog
import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable
from backendai.core.account import Principal
from backendai.core.errors import BackendError, ObjectNotFound, ServiceUnavailable
from backendai.core.task import TaskState, TaskStatus
from backendai.manager.clock import Clock, wall_time
from backendai.manager.notices import NoticeBoard
from backendai.storage import tasks as store
from backendai.supervision.periodic import Alarm

log = structlog.get_logger(__name__)

#: Finished tasks can be asked for this long.
_RETENTION = timedelta(hours=24)
#: A process says this often that its tasks still run; ones that are silent for longer have lost theirs.
_SIGN_OF_LIFE = timedelta(seconds=10)
_LOST_AFTER = timedelta(seconds=60)
#: Seconds between two writes of one task's progress.
_WRITE_INTERVAL = 0.2
#: Seconds for writing down how a task ended although the process is stopping.
_LAST_WRITE = 2.0
#: Seconds after which a follower looks although nothing was heard.
_LOOK_ANYWAY = 5.0


class TaskReport:
    """What a task tells of itself while it runs. Telling never waits and may be done at any rate."""

    def __init__(self, state: TaskState) -> None:
        self.state = state
        self.changed = Alarm()

    def update(
        self, *, current: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        """What is not given stays as it was."""
        told = {"current_progress": current, "total_progress": total, "message": message}
        self.state = msgspec.structs.replace(
            self.state, **{name: value for name, value in told.items() if value is not None}
        )
        self.changed.ring()

    def error(self, text: str) -> None:
        """A part of the work failed, and the rest goes on."""
        self.state = msgspec.structs.replace(self.state, errors=(*self.state.errors, text))
        self.changed.ring()


#: Returns the last message, if there is something to say. A BackendError it raises makes the task fail with
#: its text; any other error is a bug, logged, and told to the owner without its text.
Work = Callable[[TaskReport], Awaitable[str | None]]


class BackgroundTasks:
    """Tasks live in the process that started them, at most as long as it does; :meth:`run` owns them."""

    def __init__(self, database: Database, board: NoticeBoard, clock: Clock = wall_time) -> None:
        self._database = database
        self._board = board
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._running: set[UUID] = set()
        self._followers: set[Alarm] = set()
        self._closed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run tasks until cancelled, which cancels them."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await trio.sleep(_SIGN_OF_LIFE.total_seconds())
                    if self._running:
                        await store.keep_alive(self._database, self._running, self._clock())
        finally:
            self._nursery = None

    async def start(self, owner: Principal, name: str, work: Work) -> UUID:
        """Begin a task for its owner; answers its id once it is written down."""
        if self._nursery is None:
            raise ServiceUnavailable("The server is not ready to do this; try again soon.")
        task_id = uuid4()
        await store.insert(self._database, task_id, name, owner.user_id, owner.domain_name, self._clock())
        report = TaskReport(TaskState(id=task_id, status=TaskStatus.RUNNING))
        self._nursery.start_soon(self._perform, name, report, work, name=f"task {name} {task_id}")
        return task_id

    @asynccontextmanager
    async def follow(self, principal: Principal, task_id: UUID) -> AsyncIterator[AsyncIterator[TaskState]]:
        """The state of a task now and after each change; the last one is final, unless the service stops.

        Raises :class:`ObjectNotFound` for a task that is unknown, long over, or another's.
        """
        with self._board.watch_task(task_id) as changed:
            found = await store.find(self._database, task_id)
            if found is None or not _may_see(principal, found):
                raise ObjectNotFound("background task")
            self._followers.add(changed)
            try:
                async with aclosing(self._states(found.state, changed)) as states:
                    yield states
            finally:
                self._followers.discard(changed)

    def close(self) -> None:
        """End all following: the service is about to stop."""
        self._closed = True
        for alarm in self._followers:
            alarm.ring()

    async def fail_orphans(self) -> None:
        """Have tasks fail whose process is gone."""
        now = self._clock()
        for state in await store.orphans(self._database, now - _LOST_AFTER):
            log.warning("tasks.orphan", task=str(state.id))
            await self._end(state, TaskStatus.FAILED, "The server process that did this has ended.")

    async def prune(self) -> None:
        await store.prune(self._database, self._clock() - _RETENTION)

    async def _states(self, state: TaskState, changed: Alarm) -> AsyncGenerator[TaskState, None]:
        yield state
        while state.status is TaskStatus.RUNNING and not self._closed:
            with trio.move_on_after(_LOOK_ANYWAY):
                await changed.wait()
            found = await store.find(self._database, state.id)
            if found is None:
                return
            if found.state != state:
                state = found.state
                yield state

    async def _perform(self, name: str, report: TaskReport, work: Work) -> None:
        task_id = report.state.id
        self._running.add(task_id)
        status, message = TaskStatus.CANCELLED, "The server process that did this was stopped."
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_changes, report)
                message = await work(report) or report.state.message or ""
                status = TaskStatus.PARTIAL_SUCCESS if report.state.errors else TaskStatus.DONE
                nursery.cancel_scope.cancel()
        except* BackendError as errors:
            status, message = TaskStatus.FAILED, "; ".join(_texts(errors))
        except* DatabaseUnavailable:
            raise
        except* Exception:
            # As with a request, a bug in one must not end the others; its owner and the log hear of it.
            log.exception("tasks.failed", task=str(task_id), kind=name)
            status, message = TaskStatus.FAILED, f"The log of the server tells more about task {task_id}."
        finally:
            self._running.discard(task_id)
            with trio.move_on_after(_LAST_WRITE, shield=True):
                await self._end(report.state, status, message)

    async def _write_changes(self, report: TaskReport) -> None:
        while True:
            await report.changed.wait()
            await store.write(self._database, report.state, self._clock())
            await trio.sleep(_WRITE_INTERVAL)

    async def _end(self, state: TaskState, status: TaskStatus, message: str) -> None:
        ended = msgspec.structs.replace(state, status=status, message=message)
        await store.write(self._database, ended, self._clock())


def _texts(errors: BaseExceptionGroup[BackendError]) -> Iterator[str]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _texts(error)
        else:
            yield str(error)


def _may_see(principal: Principal, task: store.OwnedTask) -> bool:
    if principal.is_superadmin or task.user_id == principal.user_id:
        return True
    return principal.is_admin and task.domain_name == principal.domain_name
