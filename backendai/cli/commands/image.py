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
    """List the images of this host and their short names: every installed Jupyter kernelspec is one."""
    from backendai.agent.images import installed_images
    from backendai.core.image import aliases_of, parse_reference

    images = sorted(installed_images().values(), key=lambda spec: spec.canonical)
    listed = [
        {
            "canonical": spec.canonical,
            "aliases": aliases_of(parse_reference(spec.canonical)),
            "kernelspec": spec.kernelspec,
            "language": spec.language,
        }
        for spec in images
    ]
    if as_json:
        click.echo(json.dumps(listed, indent=2))
        return
    for row in listed:
        click.echo(f"{row['canonical']}  ({row['language']}, kernelspec {row['kernelspec']})")
        click.echo("    " + ", ".join(row["aliases"]))
