"""``backendai shell``: type code, see what it does, in a session of its own."""

from __future__ import annotations

import codeop
import secrets
import sys
from collections.abc import Mapping
from typing import Any

import click

from backendai.cli import catalogue as c
from backendai.cli.client import Connection, find_connection, send
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes


@click.command()
@takes(c.DATA_DIR)
@click.argument("image", default="python")
def shell(settings: Settings, *, image: str) -> None:
    """Start a session of IMAGE, run in it what is typed, and end it at Ctrl-D.

    Ctrl-C interrupts the code that runs.
    """
    connection = find_connection(settings[c.DATA_DIR], admin=False)
    name = f"shell-{secrets.token_hex(4)}"
    send(connection, "POST", "/session", {"image": image, "clientSessionToken": name}).json()
    click.echo(f"session {name}, {image}; Ctrl-D ends it", err=True)
    try:
        while (code := _read_code(by_blocks="python" in image)) is not None:
            if code.strip():
                _run(connection, name, code)
    finally:
        send(connection, "DELETE", f"/session/{name}").json()


def _read_code(*, by_blocks: bool) -> str | None:
    """One statement, over as many lines as it takes; None at the end of the input."""
    lines: list[str] = []
    while True:
        try:
            lines.append(input("... " if lines else ">>> "))
        except EOFError:
            click.echo(err=True)
            return None
        except KeyboardInterrupt:
            click.echo(err=True)
            lines.clear()
            continue
        if not by_blocks or _is_complete("\n".join(lines)):
            return "\n".join(lines)


def _is_complete(code: str) -> bool:
    try:
        return codeop.compile_command(code) is not None
    except (SyntaxError, ValueError, OverflowError):
        return True  # the kernel says it better


def _run(connection: Connection, name: str, code: str) -> None:
    run_id = secrets.token_hex(8)
    mode, text = "query", code
    while True:
        try:
            answer = send(
                connection, "POST", f"/session/{name}", {"mode": mode, "runId": run_id, "code": text}
            ).json()
        except KeyboardInterrupt:
            send(connection, "POST", f"/session/{name}/interrupt").json()
            mode, text = "continue", ""
            continue
        result = answer["result"]
        _show(result)
        if result["status"] == "finished":
            return
        mode, text = "continue", ""
        if result["status"] == "waiting-input":
            mode, text = "input", _read_input(result)


def _show(result: Mapping[str, Any]) -> None:
    for kind, content in result.get("console") or ():
        if kind in ("stdout", "stderr"):
            click.echo(content, nl=False, err=kind == "stderr")
        elif kind in ("media", "html"):
            click.echo(f"[{kind}]", err=True)
    sys.stdout.flush()


def _read_input(result: Mapping[str, Any]) -> str:
    hidden = (result.get("options") or {}).get("is_password", False)
    text: str = click.prompt("", prompt_suffix="", hide_input=hidden, default="", show_default=False)
    return text
