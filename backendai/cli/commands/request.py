"""``backendai request`` and ``backendai sign``: signed requests by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from backendai.cli import catalogue as c
from backendai.cli.client import find_connection, send_bytes, signed_headers
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


def _arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    for parameter in (
        click.option("--admin", is_flag=True, help="Use the administrator's key pair of `up`."),
        click.argument("body", required=False),
        click.argument("target"),
        click.argument("method"),
    ):
        command = parameter(command)
    return command


@click.command()
@takes(c.DATA_DIR)
@_arguments
def request(settings: Settings, *, method: str, target: str, body: str | None, admin: bool) -> int:
    """Send one signed request, e.g. `backendai request GET /session/first`, and print the answer.

    BODY is JSON. The key pair is taken from BACKEND_ENDPOINT, BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY, or
    from the service that runs on the data directory. Exit status 1 when the server refuses.
    """
    connection = find_connection(settings[c.DATA_DIR], admin=admin)
    answer = send_bytes(connection, method.upper(), target, (body or "").encode())
    sys.stdout.buffer.write(answer.body + (b"" if answer.body.endswith(b"\n") or not answer.body else b"\n"))
    if answer.status >= 400:
        click.echo(f"backendai: status {answer.status}", err=True)
    return 0 if answer.status < 400 else 1


@click.command()
@takes(c.DATA_DIR)
@_arguments
def sign(settings: Settings, *, method: str, target: str, body: str | None, admin: bool) -> None:
    """Print a signed request for curl: `backendai sign GET /session/first | curl -K -`.

    A signature is good for 15 minutes.
    """
    connection = find_connection(settings[c.DATA_DIR], admin=admin)
    content = (body or "").encode()
    headers = signed_headers(connection, method.upper(), target, content, now=datetime.now(UTC))
    lines = [("url", connection.endpoint + target), ("request", method.upper())]
    lines += [("header", f"{name}: {value}") for name, value in headers.items()]
    if content:
        lines.append(("data-raw", content.decode()))
    click.echo("silent\nshow-error")
    for name, value in lines:
        click.echo(f"{name} = {_quoted(value)}")


def _quoted(value: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    return '"' + "".join(escapes.get(character, character) for character in value) + '"'
