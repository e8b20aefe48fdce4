"""``backendai gateway``, also ``python -m backendai.gateway.server``."""

from __future__ import annotations

import click

from backendai.cli import catalogue as c
from backendai.cli.build import gateway_settings
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


@click.command()
@takes(*c.GATEWAY_COMMAND)
def gateway(settings: Settings) -> None:
    """Run one gateway process: the HTTP API, the manager's services and loops.

    Any number of them may run on one database.
    """
    wanted = gateway_settings(settings)
    from backendai.gateway.server import main

    main(wanted)
