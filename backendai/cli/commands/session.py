"""``backendai session``: ask the running service about sessions."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from backendai.cli import catalogue as c
from backendai.cli.client import find_connection, send
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


@click.group()
def session() -> None:
    """Ask about sessions."""


@session.command()
@takes(c.DATA_DIR)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--admin", is_flag=True, help="Use the administrator's key pair of `up`.")
@click.option("--owner", metavar="ACCESS_KEY", help="Of another account's session; for administrators.")
@click.argument("name")
def explain(settings: Settings, *, name: str, as_json: bool, admin: bool, owner: str | None) -> None:
    """Tell why session NAME (or id) waits, why it ended, or when it will be stopped and by which rule."""
    target = f"/session/{quote(name, safe='')}/explain"
    if owner:
        target += f"?owner_access_key={quote(owner, safe='')}"
    answer = send(find_connection(settings[c.DATA_DIR], admin=admin), "GET", target).json()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{answer['sessionName']} ({answer['sessionId']}): {answer['status']}")
    click.echo(answer["summary"])
    for line in _details(answer):
        click.echo(f"  {line}")


def _details(answer: dict[str, Any]) -> list[str]:
    lines = []
    if pending := answer.get("pending"):
        if "position" in pending:
            lines.append(f"place {pending['position']} of {pending['queueLength']} in the queue")
        lines += [f"{each['rule']}: {each['why']}" for each in pending["blockedBy"]]
        lines.append(f"gives up at {pending['givesUpAt']}")
    for stop in answer.get("stops", ()):
        lines.append(f"{stop['rule']}: at {stop['at']}, {stop['why']}")
    for each in answer["history"]:
        reason = f" ({each['reason']})" if each["reason"] else ""
        lines.append(f"{each['at']}  {each['status']}{reason}")
    return lines
