"""``backendai config``: what the options came to."""

from __future__ import annotations

import json

import click

from backendai.cli import catalogue as c
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


@click.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, keyed by option.")
@takes(*c.ALL)
def show(settings: Settings, *, as_json: bool) -> None:
    """Print each option's value and where it came from. Secrets are masked."""
    visible = [setting for setting in settings if not setting.option.internal]
    if as_json:
        content = {
            setting.option.name: {
                "value": None if setting.value is None else setting.option.show(setting.value),
                "origin": setting.origin.value,
                "where": setting.where,
            }
            for setting in visible
        }
        click.echo(json.dumps(content, indent=2))
        return
    for setting in visible:
        click.echo(f"{setting.option.name:24} {setting.option.show(setting.value):40} {setting.where}")


@config.command()
@takes(*c.ALL)
def check(settings: Settings) -> None:
    """Check file and environment; exit status 2 and one line for the first thing that is wrong."""
    click.echo(f"the configuration is good ({settings.file or 'no file'})")
