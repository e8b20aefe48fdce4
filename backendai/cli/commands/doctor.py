"""``backendai doctor``: what this machine lacks and what that costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from backendai.cli import catalogue as c
from backendai.cli.build import UpSettings, up_settings
from backendai.cli.options import Settings
from backendai.cli.options_on_click import takes
from backendai.cli.up.announce import CONNECTION_FILE
from backendai.embedded.places import port_problem
from backendai.engines.probe import Capability, probe_host

_FREE_DISK = 1 << 30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
@takes(*c.UP_COMMAND)
def doctor(settings: Settings, *, as_json: bool) -> int:
    """Tell what this machine lacks for `backendai up` and what that costs.

    Exit status 1 when it cannot work at all.
    """
    host = probe_host()
    found = [*host.capabilities, *_ports(up_settings(settings)), _disk(settings[c.DATA_DIR])]
    if as_json:
        click.echo(json.dumps([_as_dict(capability) for capability in found], indent=2))
    else:
        for capability in found:
            _show(capability)
    return 1 if any(capability.vital and not capability.ok for capability in found) else 0


def _show(capability: Capability) -> None:
    mark = "ok  " if capability.ok else "FAIL" if capability.vital else "weak"
    click.echo(f"{mark}  {capability.name:12} {capability.found}")
    if not capability.ok:
        click.echo(f"{'':18} costs: {capability.cost}")
        click.echo(f"{'':18} mend:  {capability.mend}")


def _as_dict(capability: Capability) -> dict[str, object]:
    return {name: getattr(capability, name) for name in ("name", "ok", "found", "cost", "mend", "vital")}


def _ports(up: UpSettings) -> Iterator[Capability]:
    running = (up.data_dir / CONNECTION_FILE).exists()
    for option, port in ((c.HTTP_PORT, up.http_port), (c.HTTPS_PORT, up.https_port)):
        if port == 0:
            continue
        problem = port_problem(up.service_ip, port)
        note = " (`up` runs on this data directory, perhaps it is that)" if problem and running else ""
        yield Capability(
            name=option.name,
            ok=not problem,
            found=f"{up.service_ip}:{port} " + (f"cannot be had: {problem}{note}" if problem else "is free"),
            cost="`backendai up` does not start",
            mend=f"{option.flag} chooses another, 0 a free one",
            vital=not running,
        )


def _disk(directory: Path) -> Capability:
    place = next(step for step in (directory, *directory.parents) if step.exists())
    free = shutil.disk_usage(place).free
    return Capability(
        name="disk",
        ok=free >= _FREE_DISK,
        found=f"{free / (1 << 30):.1f} GiB free for {directory}",
        cost="sessions and databases fill the disk soon",
        mend=f"make room, or choose another place with {c.DATA_DIR.flag}",
    )
