"""The ASGI application: Quart on Trio, with our own way through a request (see ``edge``)."""

from __future__ import annotations

from quart_trio import QuartTrio

from backendai.gateway.edge import Edge, HttpOptions
from backendai.gateway.handlers import (
    admin,
    agents,
    auth,
    dotfiles,
    events,
    execution,
    files,
    hello,
    insight,
    manager,
    output,
    proxy,
    run_stream,
    sessions,
    tasks,
    templates,
    terminal,
)
from backendai.gateway.handlers.description import described
from backendai.gateway.http_exchange import HttpExchange
from backendai.gateway.metrics import Metrics
from backendai.gateway.relay import Relays
from backendai.gateway.services import Services
from backendai.gateway.socket_exchange import SocketExchange

_NO_OPTIONS = HttpOptions()


class Gateway(QuartTrio):
    """Quart with the connection classes exchanged, which is its own point of extension."""

    asgi_http_class = HttpExchange  # type: ignore[assignment]
    asgi_websocket_class = SocketExchange  # type: ignore[assignment]

    def __init__(self, edge: Edge, relays: Relays) -> None:
        super().__init__("backendai.gateway", static_folder=None)
        self.edge = edge
        #: Has to run while the application is served.
        self.relays = relays


def create_app(services: Services, options: HttpOptions = _NO_OPTIONS) -> Gateway:
    """The application over complete services. It owns no task and may be created outside of a loop."""
    metrics = Metrics()
    relays = Relays()
    routes = (
        *hello.routes(metrics),
        *auth.ROUTES,
        *manager.ROUTES,
        *sessions.ROUTES,
        *execution.ROUTES,
        *output.ROUTES,
        *insight.ROUTES,
        *files.ROUTES,
        *templates.ROUTES,
        *dotfiles.ROUTES,
        *events.ROUTES,
        *tasks.ROUTES,
        *admin.ROUTES,
        *agents.ROUTES,
    )
    sockets = (*run_stream.SOCKETS, *terminal.sockets(relays), *proxy.sockets(relays))
    return Gateway(Edge(services, options, described(routes, sockets), sockets, metrics), relays)
