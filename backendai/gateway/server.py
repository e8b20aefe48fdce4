"""One gateway process from top to bottom: the ladder of everything it opens, HTTP innermost.

``python -m backendai.gateway.server`` is ``backendai gateway``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass

import structlog
import trio
from hypercorn.config import Config

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import DatabaseUnavailable
from backendai.gateway.app import create_app
from backendai.gateway.edge import HttpOptions
from backendai.gateway.logs import configure_logging
from backendai.gateway.serve import Binding, HttpServer, bind, load_config, tls_context
from backendai.gateway.services import Services
from backendai.gateway.settings import GatewaySettings
from backendai.manager.enrollment import Admission
from backendai.manager.legacy import (
    LegacyInterface,
    LegacySettings,
    open_legacy_interface,
)
from backendai.manager.open import Manager, open_manager
from backendai.storage.fitness import DatabaseUnfit
from backendai.supervision.descriptors import allow_many_descriptors
from backendai.supervision.service import open_service
from backendai.supervision.signals import wait_for_stop_signal

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listening:
    """The ports a gateway came to listen on; None for what it does not serve."""

    http_port: int | None
    https_port: int | None
    legacy_port: int | None = None


def services_of(manager: Manager) -> Services:
    """What handlers may see of the manager."""
    return Services(
        accounts=manager.accounts,
        sessions=manager.sessions,
        execution=manager.execution,
        streams=manager.streams,
        tasks=manager.tasks,
        explain=manager.explain,
        chronicle=manager.chronicle,
        templates=manager.templates,
        dotfiles=manager.dotfiles,
        events=manager.events,
        status=manager.status,
        rate=manager.rate,
        health=manager.health,
        directory=manager.directory,
        admission=Admission(manager.enrollment, manager.settings),
    )


def _legacy_of(manager: Manager, settings: LegacySettings) -> AbstractAsyncContextManager[LegacyInterface]:
    return open_legacy_interface(
        settings, manager.accounts, manager.sessions, manager.explain, manager.rate, manager.status
    )


async def serve(
    settings: GatewaySettings, *, task_status: trio.TaskStatus[Listening] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a gateway until cancelled; ``started`` with its ports once it answers.

    Raises OSError when a port or a certificate cannot be had and :class:`DatabaseUnavailable` when there
    is no database to begin with, :class:`DatabaseUnfit` when it is not one to work with. Cancelling it stops
    it in order, within the settings' grace.
    """
    config = load_config(settings.max_message)
    options = HttpOptions(
        allow_origins=settings.allow_origins,
        max_body=settings.max_body,
        max_upload=settings.max_upload,
        relay_idle=settings.relay_idle.total_seconds(),
        debug=settings.debug,
    )
    async with AsyncExitStack() as ladder:
        http, https = _bind(settings, config, ladder)
        await ladder.enter_async_context(open_asyncio_loop())
        manager = await ladder.enter_async_context(open_manager(settings.manager))
        await ladder.enter_async_context(open_service(manager.run, name="manager"))
        legacy = None
        if settings.legacy is not None:
            legacy = await ladder.enter_async_context(_legacy_of(manager, settings.legacy))
        app = create_app(services_of(manager), options)
        bindings = [each for each in (http, https) if each is not None]
        server = HttpServer(app, config, bindings, grace=settings.grace)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, name="http")
            listening = Listening(
                http_port=http.port if http else None,
                https_port=https.port if https else None,
                legacy_port=legacy.port if legacy else None,
            )
            log.info("gateway serves", **asdict(listening))
            if settings.ready_fd is not None:
                _announce(settings.ready_fd, listening)
            task_status.started(listening)


def _bind(
    settings: GatewaySettings, config: Config, ladder: AsyncExitStack
) -> tuple[Binding | None, Binding | None]:
    # First of all, so that a port in use is told before anything was started.
    http = https = None
    if settings.http_port is not None:
        http = bind(settings.service_ip, settings.http_port, config)
        ladder.callback(http.socket.close)
    if settings.https_port is not None:
        if settings.ssl_cert is None or settings.ssl_key is None:
            raise ValueError("HTTPS needs a certificate and its key")
        tls = tls_context(settings.ssl_cert, settings.ssl_key, config)
        https = bind(settings.service_ip, settings.https_port, config, tls)
        ladder.callback(https.socket.close)
    return http, https


def _announce(ready_fd: int, listening: Listening) -> None:
    line = json.dumps(asdict(listening)) + "\n"
    with open(ready_fd, "wb", buffering=0) as parent:
        parent.write(line.encode())


async def _serve_until_signalled(settings: GatewaySettings) -> None:
    async with trio.open_nursery() as nursery:

        async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
            number = await wait_for_stop_signal(task_status=task_status)
            log.info("gateway stops", signal=number.name)
            nursery.cancel_scope.cancel()

        await nursery.start(stop_on_signal, name="signals")
        await serve(settings)


def main(settings: GatewaySettings) -> None:
    """Run one gateway process until SIGTERM or SIGINT. Exits with 1 and one line if it cannot begin."""
    configure_logging(form=settings.log_format, level=settings.log_level)
    allow_many_descriptors()
    reasons: list[str] = []
    try:
        trio.run(_serve_until_signalled, settings)
    except* (OSError, DatabaseUnavailable, DatabaseUnfit) as errors:
        reasons += [str(error) for error in _leaves(errors)]
    if reasons:  # not inside, where the exit would become one of a group
        sys.exit(f"backendai gateway: {'; '.join(reasons)}")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Sequence[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    from backendai.cli.main import main as command_line

    command_line(["gateway", *sys.argv[1:]])
