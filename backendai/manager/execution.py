"""Running code in a session's main kernel, through its agent."""

from __future__ import annotations

from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import BadRequest, KernelExecutionFailed, ObjectNotFound
from backendai.core.execution import CompletionRequest, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.session import DEAD, SessionStatus
from backendai.manager.link import AgentAddress, AgentCaller, AgentUnreachable
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
_GONE = frozenset({"no-such-kernel", "kernel-exited"})


class ExecutionService:
    def __init__(
        self, database: Database, sessions: SessionService, agents: AgentCaller, call_timeout: float
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._agents = agents
        self._timeout = call_timeout
        self._queries: dict[UUID, int] = {}

    async def run(self, owner: Principal, ref: str, request: RunRequest) -> RunReply:
        """Start a run, feed it or read on; returns after ``request.wait`` seconds at the latest, plus the
        way.

        A kernel that died meanwhile ends the run with exit code 130. A cancelled caller abandons the wait,
        not the run. Raises :class:`KernelExecutionFailed` when the agent cannot be asked.
        """
        try:
            found = await self._sessions.locate(owner, ref)
        except ObjectNotFound:
            if request.mode is not RunMode.CONTINUE and request.mode is not RunMode.INPUT:
                raise
            await self._sessions.resolve(owner, ref, stale=True)  # or raise, if there never was one
            return _dead(request)
        if request.mode is RunMode.QUERY or request.mode is RunMode.BATCH:
            self.note_use(found.record.session_id, runs=1)
        message = RunCode(kernel_id=found.record.session_id, request=request)
        answer = await self._ask(found, message, self._timeout + request.wait)
        match answer:
            case RunAnswered():
                return answer.reply
            case Refused() if answer.code in _GONE:
                return _dead(request)
        raise _failed(answer)

    async def interrupt(self, owner: Principal, ref: str) -> None:
        """Ask the running code to stop; returns once the agent has accepted."""
        found = await self._sessions.locate(owner, ref)
        answer = await self._ask(found, InterruptKernel(kernel_id=found.record.session_id), self._timeout)
        if isinstance(answer, Refused):
            raise _failed(answer)

    async def complete(self, owner: Principal, ref: str, request: CompletionRequest) -> tuple[str, ...]:
        """How the code may go on at the cursor; nothing for languages that cannot tell."""
        found = await self._sessions.locate(owner, ref)
        message = CompleteCode(kernel_id=found.record.session_id, request=request)
        answer = await self._ask(found, message, self._timeout)
        if isinstance(answer, Completions):
            return answer.matches
        raise _failed(answer)

    async def logs(self, owner: Principal, ref: str) -> str:
        """The end of all that the main kernel printed; of a dead one what was kept."""
        found = await self._sessions.locate(owner, ref, stale=True)
        if found.record.status not in DEAD and found.address is not None:
            answer = await self._call(found, ReadLogs(kernel_id=found.record.session_id), self._timeout)
            if isinstance(answer, Logs):
                return answer.text
        return await kernel_store.kept_logs(self._database, found.record.session_id) or ""

    def note_use(self, session_id: UUID, *, runs: int = 0) -> None:
        """Somebody uses the session now, so that it is not idle; written down soon."""
        self._queries[session_id] = self._queries.get(session_id, 0) + runs

    async def flush_queries(self) -> None:
        """Write the counted runs and other uses down."""
        counts, self._queries = self._queries, {}
        if counts:
            await session_store.add_queries(self._database, counts)

    async def _ask(self, found: Found, message: AgentCall, timeout: float) -> AgentAnswer:
        if found.record.status is not SessionStatus.RUNNING:
            raise BadRequest(f"The session is not running but {found.record.status}.")
        return await self._call(found, message, timeout)

    async def _call(self, found: Found, message: AgentCall, timeout: float) -> AgentAnswer:
        target = AgentAddress(found.address or "", found.public_key)
        try:
            return await self._agents.call(target, message, timeout=timeout)
        except AgentUnreachable as error:
            details = {"type": "unreachable", "title": error.why}
            raise KernelExecutionFailed(agent_details=details) from error


def _dead(request: RunRequest) -> RunReply:
    return RunReply(
        run_id=request.run_id, status=RunStatus.FINISHED, exit_code=_EXIT_OF_DEAD_KERNEL, options={}
    )


def _failed(answer: AgentAnswer) -> KernelExecutionFailed:
    if isinstance(answer, Refused):
        return KernelExecutionFailed(agent_details={"type": answer.code, "title": answer.msg})
    title = f"unexpected answer {type(answer).__name__}"
    return KernelExecutionFailed(agent_details={"type": "protocol", "title": title})
