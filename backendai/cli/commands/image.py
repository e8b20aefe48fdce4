"""``backendai image``: what kernels can be started from."""

from __future__ import annotations

import json

import click


@click.group()
def image() -> None:
    """See which images kernels can be started from."""


@image.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def list_images(*, as_json: bool) -> None:
    """List the images of this host: every installed Jupyter kernelspec is one."""
    from backendai.agent.images import installed_images

    images = sorted(installed_images().values(), key=lambda spec: spec.canonical)
    if as_json:
        names = ("canonical", "kernelspec", "language")
        click.echo(json.dumps([{name: getattr(spec, name) for name in names} for spec in images], indent=2))
        return
    for spec in images:
        click.echo(f"{spec.canonical:40} {spec.kernelspec:20} {spec.language}")
