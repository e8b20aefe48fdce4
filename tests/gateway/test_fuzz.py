"""The API played by its own description: no bug, nothing undescribed, whatever is sent."""

from __future__ import annotations

from functools import partial

import trio
from description_play import Game, Signature
from fakes import ADMIN
from whole_gateway import people

from backendai.gateway import server
from backendai.gateway.app import Gateway
from backendai.gateway.openapi.document import describe
from backendai.gateway.settings import GatewaySettings
from backendai.storage.seed import FirstAccounts

EXAMPLES = 6


def endless(operation: str) -> bool:
    """Events never end; what schemathesis waits for is an end."""
    return operation.startswith("GET /events/")


async def test_replies_are_as_described(port: int, app: Gateway) -> None:
    """The fake services find and do everything, so that replies get to be seen."""
    document = describe(app.edge.router.routes, app.edge.router.sockets)
    game = Game(f"http://127.0.0.1:{port}", document, Signature(ADMIN))
    await trio.to_thread.run_sync(partial(game.play, EXAMPLES, leave_out=endless))
    done = {operation for operation, status in game.answers if status < 300}
    played = {operation for operation, _ in game.answers}
    assert len(done) > len(played) / 2, sorted(played - done)


async def test_nothing_breaks_a_whole_gateway(
    settings: GatewaySettings, first_accounts: FirstAccounts, app: Gateway, nursery: trio.Nursery
) -> None:
    listening = await nursery.start(server.serve, settings)
    _, admin = people(first_accounts)
    document = describe(app.edge.router.routes, app.edge.router.sockets)
    game = Game(f"http://127.0.0.1:{listening.http_port}", document, Signature(admin.principal, admin.secret))
    await trio.to_thread.run_sync(partial(game.play, EXAMPLES, leave_out=endless))
    # Whoever is stopped at the door does not get to break anything.
    assert not {401, 403, 429} & {status for _, status in game.answers}, game.answers
    nursery.cancel_scope.cancel()
