"""``backendai up``."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import click
import trio

from backendai.cli import catalogue as c
from backendai.cli.build import UpSettings, up_settings
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes
from backendai.cli.up.announce import Announcement, connection_file
from backendai.cli.up.given import ServerUnfit
from backendai.cli.up.keeper import NotReady
from backendai.cli.up.tree import MigrationFailed, Plan, PortTaken, open_tree
from backendai.embedded.child import ChildExited
from backendai.embedded.keys import BadKeyFile
from backendai.embedded.lodging import NoLodging
from backendai.embedded.places import PlaceTaken, PlaceUnfit
from backendai.embedded.postgres import PostgresFailed
from backendai.embedded.valkey import ValkeyFailed

#: What a person can do something about: told in one message, without a traceback.
_EXPECTED = (
    PlaceTaken, PlaceUnfit, PortTaken, BadKeyFile, NoLodging, ServerUnfit, PostgresFailed, ValkeyFailed,
    MigrationFailed, NotReady, ChildExited,
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Once ready, print one JSON line instead of the text.")
@takes(*c.UP_COMMAND)
def up(settings: Settings, *, as_json: bool) -> int:
    """Start everything and stop it on Ctrl-C: databases, gateway, one agent.

    Options of gateway and agent that are not listed here are taken from the environment and the file.
    """
    plan = Plan(up_settings(settings), settings, settings.file, say=_say)
    status = 0
    try:
        trio.run(_run, plan, as_json)
    except* _EXPECTED as group:
        for error in _leaves(group):
            _say(str(error))
        status = 2 if group.subgroup(PlaceTaken) else 1
    return status


async def _run(plan: Plan, as_json: bool) -> None:
    """Hold the tree until a signal asks to stop; further ones find the stop under way."""
    stopping = trio.CancelScope()

    async def stop_when_asked(signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            plan.say("still stopping" if stopping.cancel_called else "stopping")
            stopping.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_asked, signals)
            with stopping:
                async with open_tree(plan) as (announcement, database_url):
                    with connection_file(announcement, database_url):
                        _announce(announcement, plan.up, as_json)
                        await trio.sleep_forever()
            nursery.cancel_scope.cancel()


def _announce(announcement: Announcement, up: UpSettings, as_json: bool) -> None:
    default_place = up.data_dir == c.DEFAULT_DATA_DIR
    click.echo(
        json.dumps(announcement.content()) if as_json else announcement.as_text(default_place=default_place)
    )


def _say(message: str) -> None:
    click.echo(f"backendai: {message}", err=True)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
