"""``backendai agent``: run one, or enroll it."""

from __future__ import annotations

import http.client
import json
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import trio

from backendai.cli import catalogue as c
from backendai.cli import kinds
from backendai.cli.build import agent_keys_path, agent_settings, database_url
from backendai.cli.client import running_service
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
    from backendai.supervision.descriptors import allow_many_descriptors
    from backendai.supervision.signals import wait_for_stop_signal

    configure_logging(form=wanted.log_format, level=wanted.log_level)
    allow_many_descriptors()

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


@agent.command()
@takes(c.DATA_DIR, *c.DATABASE_COMMAND)
@click.option("--valid-for", default="1h", show_default=True, metavar="TIME", help="How long it is good.")
def token(settings: Settings, *, valid_for: str) -> None:
    """Print a token with which one agent may enroll, once. Run it where the database can be reached.

    The database is the one that is configured, else that of `up` on the data directory.
    """
    try:
        span = kinds.DURATION.read(valid_for)
    except ValueError as error:
        raise click.UsageError(f"--valid-for: expected {error}") from None
    url = database_url(settings).reveal()
    if not any(settings.given(option) for option in c.DATABASE_COMMAND):
        running = running_service(settings[c.DATA_DIR])
        url = running["database_url"] if running else url
    click.echo(trio.run(_issue, url, span))


async def _issue(url: str, valid_for: timedelta) -> str:
    from backendai.bridges.asyncio_loop import open_asyncio_loop
    from backendai.bridges.postgres import DatabaseUnavailable, open_database
    from backendai.manager.enrollment import Enrollment

    async with open_asyncio_loop():
        try:
            async with open_database(url, max_size=1) as database:
                return await Enrollment(database).issue_token(valid_for=valid_for)
        except DatabaseUnavailable as error:
            raise click.ClickException(f"the database cannot be reached: {error}") from None


@agent.command()
@takes(c.AGENT_ID, c.AGENT_DIR, c.AGENT_KEYS)
@click.option("--manager", "manager_url", required=True, metavar="URL", help="A gateway, https://host:port.")
@click.option("--token", "enrollment_token", required=True, help="From `backendai agent token`.")
@click.option("--ca-file", type=click.Path(exists=True, path_type=Path), help="Authority to trust (PEM).")
def enroll(settings: Settings, *, manager_url: str, enrollment_token: str, ca_file: Path | None) -> None:
    """Make this agent's keys and have them trusted by the installation of a gateway.

    The token is no secret any more once it is used. Whoever answers for the gateway becomes this agent's
    manager, so its certificate is checked; plain http:// is for loopback.
    """
    from backendai.embedded.keys import EnrolledKeys, new_key_pair, write_agent_keys

    pair = new_key_pair()
    request = {
        "token": enrollment_token,
        "agent_id": settings[c.AGENT_ID],
        "public_key": pair.public_key,
    }
    answer = _post(manager_url, "/agent/enroll", request, ca_file)
    keys = EnrolledKeys(
        pair=pair,
        manager_public_key=answer["manager_public_key"],
        manager_endpoint=_reachable(answer["events_endpoint"], manager_url),
    )
    path = agent_keys_path(settings)
    write_agent_keys(path, keys)
    click.echo(f"{settings[c.AGENT_ID]} is enrolled, its keys are in {path}")


def _post(url: str, path: str, content: dict[str, str], ca_file: Path | None) -> Any:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.UsageError(f"--manager: expected https://host:port, not {url!r}")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise click.UsageError("--manager: only https:// can be trusted on another host")
    line = (
        http.client.HTTPSConnection(
            parts.netloc, timeout=30, context=ssl.create_default_context(cafile=ca_file)
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc, timeout=30)
    )
    try:
        line.request("POST", path, json.dumps(content), {"Content-Type": "application/json"})
        response = line.getresponse()
        body = response.read()
    except OSError as error:
        raise click.ClickException(f"{url} cannot be reached: {error}") from None
    finally:
        line.close()
    if response.status != 200:
        raise click.ClickException(f"{url} refused: {_reason(body)}")
    return json.loads(body)


def _reason(body: bytes) -> str:
    try:
        problem = json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
    return str(problem.get("msg") or problem.get("title")) if isinstance(problem, dict) else str(problem)


def _reachable(endpoint: str, manager_url: str) -> str:
    """Where the manager awaits facts, seen from here: what it binds may be all addresses, or its loopback."""
    if endpoint.startswith("ipc://"):
        raise click.ClickException(
            "that installation hears agents on its own host only: start it with --events-endpoint tcp://0.0.0.0:5002"
        )
    address, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if address in ("0.0.0.0", "[::]", "*", "127.0.0.1", "localhost", "[::1]"):  # noqa: S104
        address = urlsplit(manager_url).hostname or address
        address = f"[{address}]" if ":" in address else address
    return f"tcp://{address}:{port}"
