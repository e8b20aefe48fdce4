"""Bytes into and out of a session's main kernel: terminals, apps and files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import trio

from backendai.core.account import Principal
from backendai.core.errors import (
    AgentRefused,
    BackendError,
    BadRequest,
    InternalError,
    InvalidParameters,
    KernelExecutionFailed,
    NotImplementedByServer,
    ObjectNotFound,
    ServiceUnavailable,
)
from backendai.core.files import FileListing
from backendai.core.session import SessionStatus
from backendai.manager.link import (
    AgentAddress,
    AgentCaller,
    AgentStream,
    AgentUnreachable,
    StreamRefused,
)
from backendai.manager.sessions import SessionService
from backendai.storage.sessions import Found
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    Files,
    ListFiles,
    OpenStream,
    Refused,
    ServiceStarted,
    StartService,
)
from backendai.wire.streams import PortTarget, StreamTarget

#: Seconds in which an app has to take connections.
_START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningApp:
    """Where a started app of a session takes connections."""

    session_id: UUID
    agent: AgentAddress
    port: int


class StreamService:
    """Counts the open streams: more than ``per_session`` of one session or ``total`` are refused.

    ``note_use`` is told of sessions that are used in this way.
    """

    def __init__(
        self,
        sessions: SessionService,
        agents: AgentCaller,
        note_use: Callable[[UUID], None],
        *,
        call_timeout: float,
        per_session: int,
        total: int,
    ) -> None:
        self._sessions = sessions
        self._agents = agents
        self._timeout = call_timeout
        self._per_session = per_session
        self._total = total
        self._open: dict[UUID, int] = {}
        self._note_use = note_use
        self._streams: dict[AgentStream, UUID] = {}
        self._looked_at = trio.current_time()

    @asynccontextmanager
    async def open_stream(
        self, owner: Principal, ref: str, target: StreamTarget
    ) -> AsyncIterator[AgentStream]:
        """A stream to ``target`` in the main kernel of a running session; leaving aborts it unless it ended.

        Raises :class:`BadRequest` when the session does not run, :class:`ServiceUnavailable` when there are
        too many streams or nothing listens on a port, and what :func:`refusal` says. A session that ends, or
        whose agent is lost, ends the stream as ``gone``.
        """
        found = await self._running(owner, ref)
        async with self._stream(found.record.session_id, _address(found), target) as stream:
            yield stream

    async def list_files(self, owner: Principal, ref: str, path: str) -> FileListing:
        """What lies in a directory of the main kernel, relative to its home. Raises as :func:`refusal`."""
        found = await self._running(owner, ref)
        call = ListFiles(kernel_id=found.record.session_id, path=path)
        answer = await self._call(_address(found), call, self._timeout)
        if isinstance(answer, Files):
            return answer.listing
        raise _unexpected(answer)

    async def start_app(
        self,
        owner: Principal,
        ref: str,
        name: str,
        *,
        port: int | None = None,
        environ: Mapping[str, str],
        arguments: Mapping[str, str | tuple[str, ...] | None],
    ) -> RunningApp:
        """Make sure that the app takes connections, on its first port or another of its own.

        Raises :class:`ObjectNotFound` for an unknown app, :class:`InvalidParameters` for a port that is not
        the app's and :class:`InternalError` when it cannot be started.
        """
        found = await self._running(owner, ref)
        session_id, address = found.record.session_id, _address(found)
        app = next((each for each in found.record.service_ports if each["name"] == name), None)
        if app is None:
            raise ObjectNotFound("app service", f"{found.record.name}:{name}")
        ports = [int(each) for each in app.get("ports") or app.get("container_ports") or ()]
        if not ports or (port is not None and port not in ports):
            raise InvalidParameters(f"Service {name} does not open the port number {port}.")
        if app["protocol"] == "pty":
            raise NotImplementedByServer("Terminals are not reached as an app but by /pty.")
        if app["protocol"] == "preopen":  # the user's code listens, or not
            return RunningApp(session_id=session_id, agent=address, port=port or ports[0])
        call = StartService(
            kernel_id=session_id, name=name, port=port, environ=dict(environ), arguments=dict(arguments)
        )
        answer = await self._call(address, call, _START_TIMEOUT)
        if isinstance(answer, ServiceStarted):
            return RunningApp(session_id=session_id, agent=address, port=answer.port)
        if isinstance(answer, Refused) and answer.code == "no-such-service":
            raise ObjectNotFound("app service", f"{found.record.name}:{name}")
        why = answer.msg or answer.code if isinstance(answer, Refused) else type(answer).__name__
        raise InternalError("Failed to launch the app service", data=why)

    def connect(self, app: RunningApp) -> AbstractAsyncContextManager[AgentStream]:
        """One connection to a running app. Entering raises as :meth:`open_stream`."""
        self._note_use(app.session_id)
        return self._stream(app.session_id, app.agent, PortTarget(port=app.port))

    @asynccontextmanager
    async def _stream(
        self, session_id: UUID, agent: AgentAddress, target: StreamTarget
    ) -> AsyncIterator[AgentStream]:
        count = self._open.get(session_id, 0)
        if count >= self._per_session:
            raise ServiceUnavailable(f"A session has at most {self._per_session} streams at once.")
        if sum(self._open.values()) >= self._total:
            raise ServiceUnavailable(f"This server carries at most {self._total} streams at once.")
        self._open[session_id] = count + 1
        try:
            message = OpenStream(kernel_id=session_id, target=target)
            async with self._agents.open_stream(agent, message, timeout=self._timeout) as stream:
                self._streams[stream] = session_id
                try:
                    yield stream
                finally:
                    del self._streams[stream]
                    self._note_if_moved(stream, session_id)
        except StreamRefused as refused:
            raise refusal(refused.code, refused.msg) from refused
        except AgentUnreachable as error:
            raise _unreachable(error) from error
        finally:
            self._open[session_id] -= 1
            if not self._open[session_id]:
                del self._open[session_id]

    def note_uses(self) -> None:
        """Tell which sessions' streams have carried anything since this was last called; a stream that merely
        is open is no use.
        """
        for stream, session_id in self._streams.items():
            self._note_if_moved(stream, session_id)
        self._looked_at = trio.current_time()

    def _note_if_moved(self, stream: AgentStream, session_id: UUID) -> None:
        if stream.moved_at >= self._looked_at:
            self._note_use(session_id)

    async def _running(self, owner: Principal, ref: str) -> Found:
        found = await self._sessions.locate(owner, ref)
        if found.record.status is not SessionStatus.RUNNING:
            raise BadRequest(f"The session is not running but {found.record.status}.")
        self._note_use(found.record.session_id)
        return found

    async def _call(self, target: AgentAddress, message: AgentCall, timeout: float) -> AgentAnswer:
        try:
            return await self._agents.call(target, message, timeout=timeout)
        except AgentUnreachable as error:
            raise _unreachable(error) from error


def refusal(code: str, msg: str) -> BackendError:
    """What a client is told of a stream refused, or not well ended, with a ``code`` of ``wire.streams``."""
    match code:
        case "not-found":
            return ObjectNotFound("file", msg)
        case "too-large":
            return InvalidParameters(f"Too large file: {msg}" if msg else "Too large file")
        case "refused":
            return ServiceUnavailable(msg or "Nothing takes connections on this port.")
        case "busy" | "too-many-streams" | "overload":
            return ServiceUnavailable(msg or code)
        case "bad-request":
            return BadRequest(msg)
    return KernelExecutionFailed(msg or None, agent_details={"type": code, "title": msg})


def _address(found: Found) -> AgentAddress:
    return AgentAddress(found.address or "", found.public_key)


def _unreachable(error: AgentUnreachable) -> AgentRefused:
    return KernelExecutionFailed(agent_details={"type": "unreachable", "title": error.why})


def _unexpected(answer: AgentAnswer) -> BackendError:
    if isinstance(answer, Refused):
        return refusal(answer.code, answer.msg)
    return refusal("protocol", f"unexpected answer {type(answer).__name__}")
