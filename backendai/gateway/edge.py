"""From an ASGI scope to a checked :class:`Call`: routing, versions, gates, authentication.

What HTTP and WebSocket requests share is here; ``exchange`` and ``sockets`` carry the answer back.
Quart's own request machinery (contexts, signals, header objects, two tasks per request) is not used: it
costs more than everything the gateway has to do itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio
from werkzeug.exceptions import MethodNotAllowed as RoutingMethodNotAllowed
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from backendai.core.account import RateState
from backendai.core.errors import BadRequest
from backendai.gateway.auth import ANONYMOUS_RATE, Authenticator, Evidence
from backendai.gateway.call import Call
from backendai.gateway.cors import CrossOrigin
from backendai.gateway.errors import MethodNotAllowed, UrlNotFound
from backendai.gateway.metrics import Metrics
from backendai.gateway.options import HttpOptions
from backendai.gateway.reply import Header
from backendai.gateway.route import Checks, Gate, Route, SocketRoute
from backendai.gateway.services import Services
from backendai.gateway.versions import version_of

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
__all__ = ["UNMATCHED", "Edge", "HttpOptions", "Request", "Router", "rate_headers"]
#: Label of requests that fit no route.
UNMATCHED = "unmatched"


class Request:
    """The outside of a request, before anything in it is believed."""

    __slots__ = ("headers", "method", "path", "query", "request_id", "scope", "wire_method")

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.wire_method: str = scope.get("method", "GET")
        self.method = self.headers.get("x-method-override", self.wire_method).upper()
        self.path = _path_of(scope["path"])
        self.query: bytes = scope["query_string"]
        given = self.headers.get("x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            self.request_id = given
        else:
            self.request_id = secrets.token_hex(8)

    def forget_headers(self) -> None:
        """They are of no use to a WebSocket that is open, and thousands may be."""
        self.headers.clear()
        self.scope["headers"].clear()  # the server's list as well

    @property
    def target(self) -> str:
        """Path and query, undecoded, as they are signed."""
        raw: bytes = self.scope["raw_path"]
        return (raw + b"?" + self.query if self.query else raw).decode("latin-1")


def _path_of(target: str) -> str:
    """The path of a request target, which proxies may write as a whole URL."""
    if target[:1] == "/":
        return target
    _, _, rest = target.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path or "/"


class Router:
    """The routes, by the kind of request they answer."""

    def __init__(self, routes: Sequence[Route], sockets: Sequence[SocketRoute]) -> None:
        self.routes = tuple(routes)
        self.sockets = tuple(sockets)
        # A route stands where werkzeug has the name of an endpoint; it only hands it back.
        self._http = _adapter([Rule(each.path, methods=[each.method], endpoint=each) for each in routes])
        self._sockets = _adapter([Rule(each.path, endpoint=each) for each in sockets])

    def match(self, path: str, method: str) -> tuple[Route, dict[str, str]]:
        """Raises :class:`UrlNotFound` or :class:`MethodNotAllowed`."""
        _check(path)
        try:
            return self._http.match(path, method)  # type: ignore[no-any-return]
        except RoutingMethodNotAllowed as error:
            raise MethodNotAllowed(tuple(sorted(error.valid_methods or ()))) from None
        except (NotFound, RequestRedirect):
            if self._sockets.test(path, "GET"):
                raise BadRequest("This URL only speaks WebSocket") from None
            raise UrlNotFound(data=path) from None

    def match_socket(self, path: str) -> tuple[SocketRoute, dict[str, str]]:
        _check(path)
        try:
            return self._sockets.match(path, "GET")  # type: ignore[no-any-return]
        except (NotFound, RequestRedirect):
            raise UrlNotFound(data=path) from None


def _check(path: str) -> None:
    """No name holds a NUL, which PostgreSQL refuses, or what decoding makes of bytes that are no UTF-8."""
    if "\x00" in path or "\ufffd" in path:
        raise BadRequest("The path is not text")


def _adapter(rules: list[Rule]) -> Any:
    return Map(rules, merge_slashes=False, redirect_defaults=False).bind("")


class Edge:
    """What every request passes on its way in. One per application."""

    def __init__(
        self,
        services: Services,
        options: HttpOptions,
        routes: Sequence[Route],
        sockets: Sequence[SocketRoute],
        metrics: Metrics,
    ) -> None:
        self.services = services
        self.options = options
        self.metrics = metrics
        self.router = Router(routes, sockets)
        self.cross_origin = CrossOrigin(options.allow_origins)
        #: The server stops: streams say good-bye and end.
        self.closing = False
        self._open: set[trio.CancelScope] = set()
        self._authenticator = Authenticator(services.accounts, services.rate)

    def close(self) -> None:
        """Let streams say good-bye and end: the server is about to stop."""
        self.closing = True
        for scope in self._open:
            scope.cancel()
        self.services.events.close()
        self.services.tasks.close()

    @contextmanager
    def until_closing(self) -> Iterator[None]:
        """The block is cancelled, and left, when the server stops."""
        with trio.CancelScope() as scope:
            self._open.add(scope)
            if self.closing:
                scope.cancel()
            try:
                yield
            finally:
                self._open.discard(scope)

    async def admit(
        self, request: Request, route: Checks, arguments: dict[str, str], body: bytes
    ) -> tuple[Call, RateState]:
        """Check what the route asks for. Raises a :class:`BackendError` for the first thing not met."""
        major = arguments.pop("major", None)
        version = version_of(request.headers, int(major) if major else None)
        if route.gate is not None:
            self.services.status.gate(write=route.gate is Gate.ALL)
        call = Call(
            services=self.services,
            options=self.options,
            method=request.method,
            path=request.path,
            arguments=arguments,
            headers=request.headers,
            query=request.query,
            body=body,
            version=version,
            request_id=request.request_id,
            legacy=route.legacy,
        )
        if not route.signed:
            return call, ANONYMOUS_RATE
        call.account, rate = await self._authenticator.admit(
            Evidence(
                method=request.wire_method,
                effective_method=request.method,
                target=request.target,
                headers=request.headers,
                body=body,
                changes_state=route.changes_state if route.changes is None else route.changes(body),
            )
        )
        return call, rate


def rate_headers(rate: RateState) -> tuple[Header, ...]:
    return (
        (b"x-ratelimit-limit", b"%d" % rate.limit),
        (b"x-ratelimit-remaining", b"%d" % max(rate.remaining, 0)),
        (b"x-ratelimit-window", b"%d" % rate.window),
    )
