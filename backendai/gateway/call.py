"""What passes between the HTTP edge and a handler: the call, the reply, and the route that binds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from backendai.core.account import Principal, UserRole
from backendai.core.errors import AuthFailed
from backendai.core.signing import media_type_of
from backendai.gateway.options import HttpOptions
from backendai.gateway.parameters import read_parameters
from backendai.gateway.versions import ApiVersion
from backendai.gateway.yaml_body import YAML, read_yaml

if TYPE_CHECKING:
    from backendai.gateway.body import RequestBody
    from backendai.gateway.services import Services
    from backendai.gateway.sockets import Socket

JSON = (b"content-type", b"application/json; charset=utf-8")
JSON_PROBLEM = (b"content-type", b"application/problem+json")

#: Prefix of the paths that old clients use.
VERSIONED = "/v<int(min=1,max=9):major>"

Header = tuple[bytes, bytes]
_json = msgspec.json.Encoder(decimal_format="string")


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes = b""
    headers: tuple[Header, ...] = ()


Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class StreamReply:
    """A reply whose body comes piece by piece.

    ``source`` is entered before the first byte goes out, so it may still refuse with a BackendError. It
    yields a function that writes the body and is cancelled when the client hangs up.
    """

    source: AbstractAsyncContextManager[Callable[[Write], Awaitable[None]]]
    headers: tuple[Header, ...] = ()
    status: int = 200
    #: Label of the metrics of what is open.
    kind: str = "events"


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply(status, _json.encode(value), (JSON,))


NO_CONTENT = Reply(204)


class Gate(Enum):
    """Which states of the installation a route works in (contract 01 §6)."""

    ALL = "running only"
    READ = "running or frozen"


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, checked and ready for its handler."""

    services: Services
    options: HttpOptions
    method: str
    path: str
    arguments: Mapping[str, str]
    headers: Mapping[str, str]
    query: bytes
    body: bytes
    version: ApiVersion
    request_id: str
    #: Whether the legacy names of things are wanted in the reply (``/kernel`` routes).
    legacy: bool = False
    #: None only on routes that need no signature.
    account: Principal | None = None
    #: The body, on routes that take it in by themselves; ``body`` is empty there.
    incoming: RequestBody | None = None
    _parameters: dict[str, Any] | None = None

    @property
    def principal(self) -> Principal:
        """Whom the request is signed by. Raises :class:`AuthFailed` if by nobody."""
        if self.account is None:
            raise AuthFailed("Unauthorized access")
        return self.account

    @property
    def parameters(self) -> dict[str, Any]:
        """What the body holds if there is one, else the query string. Raises :class:`InvalidParameters`."""
        if self._parameters is None:
            self._parameters = read_parameters(self.json_body, self.query)
        return self._parameters

    @property
    def json_body(self) -> bytes:
        """The body as JSON, also when it came as YAML. Raises :class:`InvalidParameters`."""
        if self.body.strip() and media_type_of(self.headers.get("content-type")) == YAML:
            return _json.encode(read_yaml(self.body))
        return self.body

    async def owner(self) -> Principal:
        """Whom the request acts for: ``owner_access_key`` of body or query if it names another account."""
        owner_key = self.parameters.get("owner_access_key")
        if owner_key is None and self.body and self.query:
            owner_key = read_parameters(b"", self.query).get("owner_access_key")
        if owner_key is None or owner_key == self.principal.access_key:
            return self.principal
        return await self.services.accounts.acting_as(self.principal, str(owner_key))

    def require_superadmin(self) -> Principal:
        if self.principal.role is not UserRole.SUPERADMIN:
            raise AuthFailed("Unauthorized access")
        return self.principal


Handler = Callable[[Call], Awaitable[Reply | StreamReply]]
SocketHandler = Callable[[Call, "Socket"], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checks:
    """What the edge makes sure of before a handler is called."""

    signed: bool = True
    gate: Gate | None = None
    #: A repetition of the same signature is refused (see ``gateway.replay``).
    changes_state: bool = False
    #: For routes where the body tells whether anything changes.
    changes: Callable[[bytes], bool] | None = None
    #: Legacy names of things are wanted in the reply.
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route(Checks):
    """An HTTP handler. ``path`` is a werkzeug rule and the label of the route's metrics."""

    method: str
    path: str
    handler: Handler
    #: The answer may take long: notice when the client hangs up, and cancel the handler then.
    waits: bool = False
    #: The handler reads ``call.incoming`` piece by piece. Bodies of such requests are not signed.
    takes_body: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SocketRoute(Checks):
    """A WebSocket handler; it is called once the connection is accepted, unless it ``relays``."""

    path: str
    handler: SocketHandler
    #: The last words to a client when the server stops, sent as JSON.
    farewell: Mapping[str, Any] | None = None
    #: The handler accepts the connection by itself, and may refuse it until then with a BackendError. It
    #: holds back a client that sends faster than it reads; one that leaves shows as the end of what comes.
    relays: bool = False
