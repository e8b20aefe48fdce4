"""Sessions for clients of mid-2017, which ask for them over ZeroMQ (contract 01 §9).

The protocol knows no authentication, so whoever reaches the socket acts for the one account that the
operator named for it, within that account's rights and limits, and touches no session but those made here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
import trio

from backendai.bridges.zmq import SocketType, ZmqSocket, open_socket
from backendai.core.account import Principal
from backendai.core.errors import (
    AuthFailed,
    BackendError,
    NoAvailableAgent,
    ObjectNotFound,
    QuotaExceeded,
    RateLimitExceeded,
)
from backendai.core.session import SessionRecord, SessionStatus, SessionWish
from backendai.manager.accounts import AccountService
from backendai.manager.explain import ExplainService
from backendai.manager.rate import RateLimiter
from backendai.manager.sessions import SessionService
from backendai.manager.status import ManagerStatusService
from backendai.supervision.containment import Containment
from backendai.supervision.service import open_service
from backendai.wire.legacy import (
    MAX_REQUEST_BYTES,
    NO_INSTANCE,
    NO_MORE_KERNELS,
    NO_SUCH_KERNEL,
    SESSION_PREFIX,
    TRY_AGAIN,
    Destroy,
    GetOrCreate,
    LegacyRefusal,
    Outcome,
    Ping,
    decode_request,
    failure,
    pong,
    success,
)

log = structlog.get_logger(__name__)

#: Requests under way at once; more are refused. Pings do not count.
_MOST_UNDER_WAY = 64
#: Replies that wait for one client; further ones are dropped.
_MOST_UNREAD = 16
#: Seconds until a session that does not run yet is looked at, and until nobody waits for it any longer.
_LOOK_AFTER = 1.0
_PATIENCE = 30.0
#: Seconds for a whole request, whatever it meets.
_DEADLINE = 60.0
#: What blocks a pending session, if it is a limit of its account and not the want of room.
_LIMITS = frozenset(
    {"concurrency", "keypair_resource_limit", "user_group_resource_limit", "domain_resource_limit"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacySettings:
    #: Whom every request acts for.
    access_key: str
    #: Address and port to bind; port 0 chooses a free one.
    ip: str = "127.0.0.1"
    port: int = 5001
    #: Address that clients are told instead of the bound one.
    kernel_ip: str | None = None


class LegacyInterface:
    """Answers REQ clients. A ROUTER, so that a session that takes its time holds up nobody else.

    Made by :func:`open_legacy_interface`.
    """

    def __init__(
        self,
        socket: ZmqSocket,
        settings: LegacySettings,
        accounts: AccountService,
        sessions: SessionService,
        explain: ExplainService,
        rate: RateLimiter,
        status: ManagerStatusService,
    ) -> None:
        self._socket = socket
        self._settings = settings
        self._accounts = accounts
        self._sessions = sessions
        self._explain = explain
        self._rate = rate
        self._status = status
        self._under_way = 0

    @property
    def port(self) -> int:
        return int(self._socket.endpoint.rpartition(":")[2])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, which abandons the requests under way."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                self._take(await self._socket.recv(), nursery)

    def _take(self, frames: list[bytes], nursery: trio.Nursery) -> None:
        if len(frames) != 3 or frames[1]:
            log.debug("legacy.malformed", frames=len(frames))
            return None  # not of a REQ socket, so nobody awaits an answer
        peer = frames[0]
        try:
            request = decode_request(frames[2])
        except LegacyRefusal as refusal:
            return self._reply(peer, refusal.reply)
        if isinstance(request, Ping):
            return self._reply(peer, pong(request))
        if self._under_way >= _MOST_UNDER_WAY:
            return self._reply(peer, _failed(request))
        self._under_way += 1
        nursery.start_soon(self._serve, peer, request)
        return None

    def _reply(self, peer: bytes, reply: bytes) -> None:
        # A ROUTER that is not mandatory never waits: what a peer cannot take is dropped.
        self._socket.send_nowait([peer, b"", reply])

    async def _serve(self, peer: bytes, request: GetOrCreate | Destroy) -> None:
        reply = _failed(request)
        try:
            # A fault in one request must not end the others'.
            with Containment(log.error, "legacy.request-failed", request=type(request).__name__):
                with trio.move_on_after(_DEADLINE):
                    reply = await self._carry_out(request)
        finally:
            self._under_way -= 1
        self._reply(peer, reply)

    async def _carry_out(self, request: GetOrCreate | Destroy) -> bytes:
        try:
            owner = await self._admit()
            if isinstance(request, GetOrCreate):
                return await self._get_or_create(owner, request)
            return await self._destroy(owner, request)
        except QuotaExceeded:
            return failure(Outcome.FAILURE, NO_MORE_KERNELS)
        except NoAvailableAgent:
            return failure(Outcome.FAILURE, NO_INSTANCE)
        except BackendError as error:
            log.info("legacy.refused", request=type(request).__name__, code=error.code, msg=error.msg)
            return _failed(request)

    async def _admit(self) -> Principal:
        """The account, with one more request counted against its rate."""
        credential = await self._accounts.credential(self._settings.access_key)
        if credential is None:
            raise AuthFailed("Access key not found")
        owner = credential.principal
        if not (await self._rate.check(owner.access_key, owner.rate_limit)).allowed:
            raise RateLimitExceeded
        self._accounts.count_query(owner.access_key)
        return owner

    async def _get_or_create(self, owner: Principal, request: GetOrCreate) -> bytes:
        self._status.gate(write=True)
        name, tag = request.session_name, request.token[:64]
        wish = SessionWish(name=name, image=request.lang, tag=tag, enqueue_only=True)
        session_id = (await self._sessions.create(owner, owner, wish)).session_id
        record = await self._sessions.await_start(owner, session_id, _LOOK_AFTER)
        if record.status is SessionStatus.PENDING and await self._is_over_limit(owner, record):
            raise QuotaExceeded
        record = await self._sessions.await_start(owner, session_id, _PATIENCE)
        if record.status is SessionStatus.PENDING:
            await self._sessions.destroy(owner, owner, str(session_id))
            raise NoAvailableAgent
        if record.status is not SessionStatus.RUNNING:
            return failure(Outcome.FAILURE, TRY_AGAIN)
        return success(
            kernel_id=str(session_id),
            kernel_addr=self._address,
            stdin_addr=self._address,
            stdout_addr=self._address,
        )

    async def _is_over_limit(self, owner: Principal, record: SessionRecord) -> bool:
        """Whether a limit of the account keeps the session waiting; then it waits no longer."""
        told = await self._explain.explain(owner, owner, str(record.session_id))
        blocked_by = {each["rule"] for each in told.get("pending", {}).get("blockedBy", ())}
        if not blocked_by & _LIMITS:
            return False
        await self._sessions.destroy(owner, owner, str(record.session_id))
        return True

    @property
    def _address(self) -> str:
        """What clients are told for the three sockets that kernels had of their own, and have no longer.

        It is this interface's: what they say to a kernel there is refused, and their wait is over.
        """
        host, port = self._socket.endpoint.rpartition(":")[::2]
        return f"tcp://{self._settings.kernel_ip}:{port}" if self._settings.kernel_ip else f"{host}:{port}"

    async def _destroy(self, owner: Principal, request: Destroy) -> bytes:
        try:
            wanted = UUID(request.kernel_id)
        except ValueError:
            raise ObjectNotFound("kernel") from None
        record = await self._sessions.resolve(owner, str(wanted))
        if record.session_id != wanted or not record.name.startswith(SESSION_PREFIX):
            raise ObjectNotFound("kernel")
        await self._sessions.destroy(owner, owner, str(wanted))
        return success()


@asynccontextmanager
async def open_legacy_interface(
    settings: LegacySettings,
    accounts: AccountService,
    sessions: SessionService,
    explain: ExplainService,
    rate: RateLimiter,
    status: ManagerStatusService,
) -> AsyncIterator[LegacyInterface]:
    """The interface, served during the body.

    Without an active account its requests fail, and the log says why: one that is deactivated must not keep
    a gateway from starting. Raises OSError when the port cannot be had.
    """
    if await accounts.credential(settings.access_key) is None:
        hint = "no active account has this access key"
        log.warning("legacy.no-account", access_key=settings.access_key, hint=hint)
    host = f"[{settings.ip}]" if ":" in settings.ip else settings.ip
    async with open_socket(
        SocketType.ROUTER,
        bind=f"tcp://{host}:{settings.port or '*'}",
        hwm=_MOST_UNREAD,
        max_message=MAX_REQUEST_BYTES,
    ) as socket:
        interface = LegacyInterface(socket, settings, accounts, sessions, explain, rate, status)
        async with open_service(interface.run, name="legacy"):
            yield interface


def _failed(request: GetOrCreate | Destroy) -> bytes:
    if isinstance(request, Destroy):
        return failure(Outcome.INVALID_INPUT, NO_SUCH_KERNEL)
    return failure(Outcome.FAILURE, TRY_AGAIN)
