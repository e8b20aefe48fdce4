"""A gateway on a real socket over fake services, and a client that signs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from fakes import Fakes
from gateway_client import SigningClient

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import open_database
from backendai.core.account import Secret
from backendai.gateway.app import Gateway, create_app
from backendai.gateway.edge import HttpOptions
from backendai.gateway.serve import HttpServer, bind, load_config
from backendai.gateway.settings import GatewaySettings
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts, ensure_first_accounts


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def options() -> HttpOptions:
    return HttpOptions(max_body=10_000, body_timeout=1.0)


@pytest.fixture
def app(fakes: Fakes, options: HttpOptions) -> Gateway:
    return create_app(fakes.services(), options)


@pytest.fixture
def keep_alive() -> float:
    """Seconds after which an idle connection is closed."""
    return 1.5


@pytest.fixture
async def server(app: Gateway, nursery: trio.Nursery, keep_alive: float) -> AsyncIterator[HttpServer]:
    config = load_config(1 << 20)
    config.keep_alive_timeout = keep_alive
    server = HttpServer(app, config, [bind("127.0.0.1", 0, config)], grace=0.3)
    await nursery.start(server.run)
    yield server
    nursery.cancel_scope.cancel()


@pytest.fixture
def port(server: HttpServer) -> int:
    return server.ports[0]


@pytest.fixture
async def client(port: int) -> AsyncIterator[SigningClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
        yield SigningClient(http)


# -- a whole gateway, manager and databases included


@pytest.fixture
def settings(database_url: str, redis_url: str) -> GatewaySettings:
    return GatewaySettings(
        manager=ManagerSettings(
            database_url=Secret(database_url),
            redis_url=Secret(redis_url),
            process_id="gateway-under-test",
            facts_endpoint="tcp://127.0.0.1:*",
        ),
        http_port=0,
        grace=0.2,
    )


@pytest.fixture
async def first_accounts(database_url: str) -> FirstAccounts:
    async with (
        open_asyncio_loop(),
        open_database(database_url) as database,
        database.transaction() as connection,
    ):
        return await ensure_first_accounts(connection)
