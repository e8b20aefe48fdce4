"""The life of a kernel, and the status of a session as it follows from its kernels. Pure.

``step(state, event, now)`` answers the next state and what has to be done. Facts from agents may be lost,
doubled or reordered: an event that does not fit the state changes nothing, every state that waits for
something has a deadline after which the sweep sends :class:`DeadlinePassed`, and the reconciler sends
:class:`Missing` when the agent, asked for all its kernels, does not have one. TERMINATED and CANCELLED are
final.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Any

from backendai.core.kernel import TASK_FINISHED
from backendai.core.session import DEAD, SessionResult, SessionStatus

S = SessionStatus


class Reason(StrEnum):
    """Why a kernel is where it is, as ``status_info`` shows it. Agents add their own for an end."""

    SCHEDULED = "scheduled"
    USER_REQUESTED = "user-requested"
    FORCE_TERMINATED = "force-terminated"
    SELF_TERMINATED = "self-terminated"
    #: The command of a batch session has ended, well or not.
    TASK_FINISHED = TASK_FINISHED
    #: It took longer than its ``batch_timeout``.
    TASK_TIMEOUT = "task-timeout"
    IDLE_TIMEOUT = "idle-timeout"
    SESSION_LIFETIME = "idle-session_lifetime"
    #: A session it waited for has ended without success.
    DEPENDENCY_FAILED = "dependency-failed"
    PENDING_TIMEOUT = "pending-timeout"
    FAILED_TO_START = "failed-to-start"
    FAILED_TO_RESTART = "failed-to-restart"
    RESTART_TIMEOUT = "operation-timeout (restart)"
    MISSING = "missing-agent-allocation"
    AGENT_TERMINATION = "agent-termination"
    SIBLING_ENDED = "cluster-member-ended"
    FROZEN = "manager-freeze-force-kill"


# -- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Slots on an agent are reserved."""


@dataclass(frozen=True, slots=True)
class DependencyFailed:
    """Sessions it depends on, by name, are over and did not succeed."""

    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preparing:
    """The agent is being asked to create it."""


@dataclass(frozen=True, slots=True)
class Pulling:
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Creating:
    pass


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class StartFailed:
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    reason: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class DestroyWanted:
    reason: str = Reason.USER_REQUESTED
    forced: bool = False


@dataclass(frozen=True, slots=True)
class RestartWanted:
    pass


@dataclass(frozen=True, slots=True)
class Broke:
    """An operation failed so that nobody knows what the kernel is now; ``what`` is ``agent-error (...)`` or
    alike.
    """

    what: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Its agent lists its kernels and this one is not among them."""


@dataclass(frozen=True, slots=True)
class AgentGone:
    """Its agent was given up."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    pass


Event = (
    Scheduled
    | DependencyFailed
    | Preparing
    | Pulling
    | Creating
    | Started
    | StartFailed
    | Ended
    | DestroyWanted
    | RestartWanted
    | Broke
    | Missing
    | AgentGone
    | DeadlinePassed
)


# -- states -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a kernel may wait in a state. One deadline covers the whole start, whatever steps it has."""

    pending: timedelta
    start: timedelta
    terminate: timedelta


@dataclass(frozen=True, slots=True)
class KernelState:
    status: SessionStatus
    changed: datetime
    deadline: datetime | None = None
    reason: str | None = None
    #: Details for ``status_data``.
    data: dict[str, Any] | None = None
    exit_code: int | None = None


class Effect(Enum):
    #: Give the slots back: close the allocation rows.
    RELEASE = "release"
    #: Tell the agent to end the kernel (again); it may have none, or one that nobody wants any more.
    DESTROY = "destroy"
    #: A kernel runs that did not before: main or after a restart.
    ANNOUNCE_START = "announce-start"


@dataclass(frozen=True, slots=True)
class Step:
    state: KernelState
    effects: tuple[Effect, ...] = ()
    #: Event names of the API (contract 03 §7) that this step gives rise to.
    announce: tuple[str, ...] = ()


#: Waiting for the agent's first word.
STARTING = frozenset({S.SCHEDULED, S.PREPARING, S.PULLING})
#: A user may have these ended only by force.
_BUSY = frozenset({S.SCHEDULED, S.PREPARING, S.TERMINATING, S.ERROR})


def refuses_destroy(status: SessionStatus, *, forced: bool) -> str | None:
    """Why a session of this status may not be destroyed now, if it may not (contract 02 §6.2)."""
    if status is S.PULLING:
        return "Cannot destroy kernels in pulling status"
    if status in _BUSY and not forced:
        return "Cannot destroy kernels in scheduled/preparing/terminating/error status"
    return None


def enqueued(now: datetime, deadlines: Deadlines, starts_at: datetime | None = None) -> KernelState:
    """The time until ``starts_at`` is not spent waiting."""
    return KernelState(S.PENDING, now, max(now, starts_at or now) + deadlines.pending)


def step(state: KernelState, event: Event, now: datetime, deadlines: Deadlines) -> Step:
    """What ``event`` makes of ``state``. An event that does not fit leaves the very same state, with no
    effect but for a kernel that lives although its record is dead: that one is to be destroyed.
    """
    status = state.status
    if status in DEAD:
        stray = isinstance(event, Started | Creating | Pulling)
        return Step(state, (Effect.DESTROY,) if stray else ())
    match event:
        case Scheduled() if status is S.PENDING:
            return Step(
                KernelState(S.SCHEDULED, now, now + deadlines.start, Reason.SCHEDULED, {}),
            )
        case DependencyFailed() if status is S.PENDING:
            data = {"dependencies": list(event.sessions)}
            return _end(state, S.CANCELLED, now, Reason.DEPENDENCY_FAILED, data)
        case Preparing() if status is S.SCHEDULED:
            return _move(state, S.PREPARING, now, announce="kernel_preparing")
        case Pulling() if status in (S.SCHEDULED, S.PREPARING):
            return _move(state, S.PULLING, now, reason=event.reason or None, announce="kernel_pulling")
        case Creating() if status in (S.SCHEDULED, S.PULLING):
            return _move(state, S.PREPARING, now, announce="kernel_creating")
        case Creating() if status is S.PREPARING:
            return Step(state, announce=("kernel_creating",))
        case Started() if status in STARTING or status in (S.RESTARTING, S.ERROR):
            running = KernelState(S.RUNNING, now)
            return Step(running, (Effect.ANNOUNCE_START,), ("kernel_started",))
        case Started() if status is S.TERMINATING:
            return Step(state, (Effect.DESTROY,))
        case StartFailed() if status in STARTING:
            error = {"name": event.code, "repr": event.detail}
            return _end(state, S.CANCELLED, now, Reason.FAILED_TO_START, {"error": error})
        case StartFailed() if status is S.RESTARTING:
            error = {"name": event.code, "repr": event.detail}
            return _end(state, S.TERMINATED, now, Reason.FAILED_TO_RESTART, {"error": error})
        case Ended() if status not in (S.PENDING, S.RESTARTING):
            # Who asked for the end is told, unless the command was through before it was stopped.
            asked = status is S.TERMINATING and event.reason != Reason.TASK_FINISHED
            reason = state.reason if asked and state.reason else event.reason
            return _end(state, S.TERMINATED, now, reason, exit_code=event.exit_code)
        case RestartWanted() if status is S.RUNNING:
            return Step(KernelState(S.RESTARTING, now, now + deadlines.start))
        case DestroyWanted():
            return _destroy(state, event, now, deadlines)
        case Broke() if status in (S.RUNNING, S.RESTARTING):
            return Step(KernelState(S.ERROR, now, None, event.what))
        case Missing() if status in (S.RUNNING, S.TERMINATING, S.ERROR):
            reason = state.reason if status is S.TERMINATING and state.reason else Reason.MISSING
            return _end(state, S.TERMINATED, now, reason)
        case AgentGone() if status is not S.PENDING:
            return _end(state, S.TERMINATED, now, Reason.AGENT_TERMINATION)
        case DeadlinePassed() if state.deadline is not None and now >= state.deadline:
            return _overdue(state, now, deadlines)
    return Step(state)


def _destroy(state: KernelState, event: DestroyWanted, now: datetime, deadlines: Deadlines) -> Step:
    match state.status:
        case S.PENDING:
            return _end(state, S.CANCELLED, now, event.reason)
        case S.RUNNING | S.RESTARTING:
            terminating = KernelState(S.TERMINATING, now, now + deadlines.terminate, event.reason)
            return Step(terminating, (Effect.DESTROY,), ("kernel_terminating",))
        case S.SCHEDULED | S.PREPARING | S.TERMINATING | S.ERROR if event.forced:
            ended = _end(state, S.TERMINATED, now, Reason.FORCE_TERMINATED)
            return replace(ended, effects=(*ended.effects, Effect.DESTROY))
    return Step(state)


def _overdue(state: KernelState, now: datetime, deadlines: Deadlines) -> Step:
    match state.status:
        case S.PENDING:
            return _end(state, S.CANCELLED, now, Reason.PENDING_TIMEOUT)
        case S.SCHEDULED | S.PREPARING | S.PULLING:
            error = {
                "name": "start-timeout",
                "repr": f"no start within {deadlines.start.total_seconds():g} s",
            }
            ended = _end(state, S.CANCELLED, now, Reason.FAILED_TO_START, {"error": error})
            return replace(ended, effects=(*ended.effects, Effect.DESTROY))
        case S.RESTARTING:
            reason = Reason.RESTART_TIMEOUT
            terminating = KernelState(S.TERMINATING, now, now + deadlines.terminate, reason)
            return Step(terminating, (Effect.DESTROY,), ("kernel_terminating",))
        case S.TERMINATING:
            # Should it still live, the reconciler finds it on its agent and ends it there.
            return _end(state, S.TERMINATED, now, state.reason or Reason.USER_REQUESTED)
    return Step(state)


def _move(
    state: KernelState, status: SessionStatus, now: datetime, *, announce: str, reason: str | None = None
) -> Step:
    """Another step of the same wait: the deadline stays."""
    return Step(replace(state, status=status, changed=now, reason=reason), announce=(announce,))


def _end(
    state: KernelState,
    status: SessionStatus,
    now: datetime,
    reason: str,
    data: dict[str, Any] | None = None,
    exit_code: int | None = None,
) -> Step:
    ended = KernelState(status, now, None, reason, data if data is not None else state.data, exit_code)
    name = "kernel_cancelled" if status is S.CANCELLED else "kernel_terminated"
    return Step(ended, (Effect.RELEASE,), (name,))


# -- sessions -----------------------------------------------------------------------------------------

_ORDER = (S.PENDING, S.SCHEDULED, S.PREPARING, S.PULLING, S.RESTARTING, S.RUNNING)


def session_status(kernels: Sequence[SessionStatus]) -> SessionStatus:
    """The status of a session whose kernels have these.

    Dead once all are dead; on its way there as soon as one is; otherwise as far as the slowest.
    """
    statuses = frozenset(kernels)
    if statuses <= DEAD:
        return S.CANCELLED if statuses == {S.CANCELLED} else S.TERMINATED
    if S.ERROR in statuses:
        return S.ERROR
    if statuses & DEAD or S.TERMINATING in statuses:
        return S.TERMINATING
    return next(status for status in _ORDER if status in statuses)


def batch_result(status: SessionStatus, main: KernelState) -> SessionResult:
    """What a batch session of this status came to; ``main`` is its main kernel's state.

    Success is a command that ended by itself with exit code 0. One that was cancelled has no result.
    """
    if status is not S.TERMINATED:
        return SessionResult.UNDEFINED
    done = main.reason == Reason.TASK_FINISHED and main.exit_code == 0
    return SessionResult.SUCCESS if done else SessionResult.FAILURE


def session_announcement(before: SessionStatus, after: SessionStatus) -> str | None:
    """The API event that a change of a session's status is."""
    if before is after:
        return None
    return {
        S.SCHEDULED: "session_scheduled",
        S.RUNNING: "session_started",
        S.CANCELLED: "session_cancelled",
        S.TERMINATED: "session_terminated",
    }.get(after)
