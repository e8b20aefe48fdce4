"""Running code in a session's main kernel, through its agent."""

from __future__ import annotations

import secrets
from uuid import UUID

import msgspec
import trio

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import BadRequest, KernelExecutionFailed, ObjectNotFound
from backendai.core.execution import CompletionRequest, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.session import DEAD, SessionStatus
from backendai.manager.clock import Clock, wall_time
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
from backendai.manager.logs import LINGER, LogArchive
from backendai.manager.sessions import SessionService
from backendai.storage import kernels as kernel_store
from backendai.storage import sessions as session_store
from backendai.storage.sessions import Found
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    CompleteCode,
    Completions,
    InterruptKernel,
    Logs,
    ReadLogs,
    Refused,
    RunAnswered,
    RunCode,
)

#: What a run looks like whose kernel died (contract 02 §7.2).
_EXIT_OF_DEAD_KERNEL = 130
#: Seconds between two attempts to ask an agent that is away.
_ASK_AGAIN_AFTER = 0.3
_GONE = frozenset({"no-such-kernel", "kernel-exited"})


class ExecutionService:
    def __init__(
        self,
        database: Database,
        sessions: SessionService,
        agents: AgentCaller,
        logs: LogArchive,
        call_timeout: float,
        clock: Clock = wall_time,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._agents = agents
        self._logs = logs
        self._timeout = call_timeout
        self._clock = clock
        self._queries: dict[UUID, int] = {}

    async def run(self, owner: Principal, ref: str, request: RunRequest) -> RunReply:
        """Start a run, feed it or read on; returns after ``request.wait`` seconds at the latest, plus the
        way.

        What a kernel that ended printed last can be read on for a few seconds. After that, and when nothing
        is known of its end, the run has exit code 130. A cancelled caller abandons the wait, not the run.
        An agent that is away is waited for as long as it may take to answer, unless asking it twice could
        make a difference. Raises :class:`KernelExecutionFailed` when it cannot be asked.
        """
        reads_on = request.mode is RunMode.CONTINUE or request.mode is RunMode.INPUT
        found = await self._locate(owner, ref, stale=reads_on)
        if reads_on and (found.record.status in DEAD or found.record.status is SessionStatus.TERMINATING):
            return await self._read_last(found, request)
        if request.mode is RunMode.QUERY or request.mode is RunMode.BATCH:
            self.note_use(found.record.session_id, runs=1)
        elif request.mode is RunMode.INPUT:
            self.note_use(found.record.session_id)
        if request.after is None:
            request = msgspec.structs.replace(request, asking=secrets.token_hex(8))
        message = RunCode(kernel_id=found.record.session_id, request=request)
        patience = 0.0 if request.mode is RunMode.INPUT else self._timeout
        answer = await self._ask(found, message, self._timeout + request.wait, patience)
        match answer:
            case RunAnswered():
                return answer.reply
            case Refused() if answer.code in _GONE:
                return _dead(request)
        raise _failed(answer)

    async def _locate(self, owner: Principal, ref: str, *, stale: bool) -> Found:
        """With ``stale`` a dead session is found where no live one is."""
        try:
            return await self._sessions.locate(owner, ref)
        except ObjectNotFound:
            if not stale:
                raise
        return await self._sessions.locate(owner, ref, stale=True)

    async def _read_last(self, found: Found, request: RunRequest) -> RunReply:
        ended = found.record.terminated_at
        if ended is not None and self._clock() - ended > LINGER:
            return _dead(request)
        message = RunCode(kernel_id=found.record.session_id, request=request)
        try:
            answer = await self._agents.call(_target(found), message, timeout=self._timeout + request.wait)
        except AgentUnreachable:
            return _dead(request)
        return answer.reply if isinstance(answer, RunAnswered) else _dead(request)

    async def replay(self, owner: Principal, ref: str, run_id: str, after: int, wait: float) -> RunReply:
        """What a run has printed from item ``after`` on, as often as one likes.

        While its kernel lives, waits up to ``wait`` seconds for something new. After that what was kept is
        there as long as logs are. Raises :class:`ObjectNotFound` for an unknown run and
        :class:`OutputNotKept`.
        """
        found = await self._locate(owner, ref, stale=True)
        if found.record.status not in DEAD:
            request = RunRequest(run_id=run_id, mode=RunMode.CONTINUE, after=after, wait=wait)
            message = RunCode(kernel_id=found.record.session_id, request=request)
            answer = await self._ask(found, message, self._timeout + wait, also=SessionStatus.TERMINATING)
            if isinstance(answer, RunAnswered):
                return answer.reply
            if isinstance(answer, Refused) and answer.code == "no-such-run":
                raise ObjectNotFound("run")
            if not isinstance(answer, Refused) or answer.code not in _GONE:
                raise _failed(answer)
        target = None if found.address is None else _target(found)
        record = found.record
        return await self._logs.replay(record.session_id, target, record.terminated_at, run_id, after)

    async def interrupt(self, owner: Principal, ref: str) -> None:
        """Ask the running code to stop; returns once the agent has accepted."""
        found = await self._sessions.locate(owner, ref)
        self.note_use(found.record.session_id)
        answer = await self._ask(found, InterruptKernel(kernel_id=found.record.session_id), self._timeout)
        if isinstance(answer, Refused):
            raise _failed(answer)

    async def complete(self, owner: Principal, ref: str, request: CompletionRequest) -> tuple[str, ...]:
        """How the code may go on at the cursor; nothing for languages that cannot tell."""
        found = await self._sessions.locate(owner, ref)
        self.note_use(found.record.session_id)
        message = CompleteCode(kernel_id=found.record.session_id, request=request)
        answer = await self._ask(found, message, self._timeout)
        if isinstance(answer, Completions):
            return answer.matches
        raise _failed(answer)

    async def logs(self, owner: Principal, ref: str, kernel_id: UUID | None = None) -> str:
        """The end of all that a kernel, the main one unless named, has printed; of a dead one what was kept.

        Raises :class:`ObjectNotFound` for a session or kernel that there is not, :class:`OutputNotKept`.
        """
        found = await self._sessions.locate(owner, ref, stale=True)
        session_id = found.record.session_id
        located = await kernel_store.locate(self._database, session_id, kernel_id or session_id)
        if located is None:
            raise ObjectNotFound("kernel")
        if located.started_at is None:
            return ""
        target = None if located.address is None else AgentAddress(located.address, located.public_key)
        if located.status not in DEAD and target is not None:
            call = ReadLogs(kernel_id=located.id, limit=self._logs.limit)
            answer = await self._call(target, call, self._timeout)
            if isinstance(answer, Logs):
                return self._logs.shown(answer.text, truncated=answer.truncated)
            if not isinstance(answer, Refused) or answer.code not in _GONE:
                raise _failed(answer)
        return await self._logs.log(located.id, target, located.terminated_at)

    def note_use(self, session_id: UUID, *, runs: int = 0) -> None:
        """Somebody uses the session now, so that it is not idle; written down soon."""
        self._queries[session_id] = self._queries.get(session_id, 0) + runs

    async def flush_queries(self) -> None:
        """Write the counted runs and other uses down."""
        counts, self._queries = self._queries, {}
        if counts:
            await session_store.add_queries(self._database, counts)

    async def _ask(
        self,
        found: Found,
        message: AgentCall,
        timeout: float,
        patience: float = 0,
        also: SessionStatus = SessionStatus.RUNNING,
    ) -> AgentAnswer:
        if found.record.status not in (SessionStatus.RUNNING, also):
            raise BadRequest(f"The session is not running but {found.record.status}.")
        return await self._call(_target(found), message, timeout, patience)

    async def _call(
        self, target: AgentAddress, message: AgentCall, timeout: float, patience: float = 0
    ) -> AgentAnswer:
        """Ask; again, if nobody answers, until ``patience`` seconds after the first time."""
        give_up = trio.current_time() + patience
        while True:
            try:
                return await self._agents.call(target, message, timeout=timeout)
            except AgentUnreachable as error:
                if trio.current_time() + _ASK_AGAIN_AFTER >= give_up:
                    details = {"type": "unreachable", "title": error.why}
                    raise KernelExecutionFailed(agent_details=details) from error
            await trio.sleep(_ASK_AGAIN_AFTER)


def _target(found: Found) -> AgentAddress:
    return AgentAddress(found.address or "", found.public_key)


def _dead(request: RunRequest) -> RunReply:
    return RunReply(
        run_id=request.run_id, status=RunStatus.FINISHED, exit_code=_EXIT_OF_DEAD_KERNEL, options={}
    )


def _failed(answer: AgentAnswer) -> KernelExecutionFailed:
    if isinstance(answer, Refused):
        return KernelExecutionFailed(agent_details={"type": answer.code, "title": answer.msg})
    title = f"unexpected answer {type(answer).__name__}"
    return KernelExecutionFailed(agent_details={"type": "protocol", "title": title})
