"""``backendai agent``: run one, or enroll it."""

from __future__ import annotations

import click
import trio

from backendai.cli import catalogue as c
from backendai.cli.build import agent_settings
from backendai.cli.main import stop
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


@click.group(invoke_without_command=True)
@takes(*c.AGENT_COMMAND)
def agent(settings: Settings) -> None:
    """Run the agent of this host: it starts kernels where managers tell it to, and keeps them.

    SIGTERM or Ctrl-C stops it.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    wanted = agent_settings(settings)

    from backendai.agent.directory import DirectoryHeld
    from backendai.agent.server import serve
    from backendai.gateway.logs import configure_logging
    from backendai.supervision.signals import wait_for_stop_signal

    configure_logging(form=wanted.log_format, level=wanted.log_level)

    async def until_stopped() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, wanted)
            await wait_for_stop_signal()
            nursery.cancel_scope.cancel()

    refusals: list[BaseException] = []
    try:
        trio.run(until_stopped)
    except* DirectoryHeld as group:
        refusals.extend(group.exceptions)
    if refusals:
        stop(str(refusals[0]), status=2)
