"""What binds a URL to its handler, and what has to be true before that is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from backendai.gateway.call import Call
from backendai.gateway.reply import Reply, StreamReply
from backendai.gateway.sockets import Socket

#: Prefix of the paths that old clients use.
VERSIONED = "/v<int(min=1,max=9):major>"


class Gate(Enum):
    """Which states of the installation a route works in (contract 01 §6)."""

    ALL = "running only"
    READ = "running or frozen"


Handler = Callable[[Call], Awaitable[Reply | StreamReply]]
SocketHandler = Callable[[Call, Socket], Awaitable[None]]


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
