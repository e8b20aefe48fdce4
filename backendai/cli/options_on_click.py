"""Options as click shows and takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from backendai.cli import catalogue, kinds
from backendai.cli.options import Option, Settings, find_file, resolve


def takes(*options: Option[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options and ``--config``; it is called with the :class:`Settings` they came to."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        names = {_parameter(option): option for option in options}

        def call(config: Path | None, **arguments: Any) -> Any:
            flags = {option.name: arguments.pop(parameter) for parameter, option in names.items()}
            return command(load(options, flags, config), **arguments)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        call.__click_params__ = [  # type: ignore[attr-defined]
            *getattr(command, "__click_params__", []),
            *(_as_click(option) for option in reversed(options)),
            _CONFIG,
        ]
        return call

    return decorate


def load(options: Sequence[Option[Any]], flags: dict[str, Any], config: Path | None) -> Settings:
    """Find the values of ``options``. Raises :class:`~backendai.cli.options.BadOption`."""
    file = find_file(config, os.environ)
    return resolve(options, flags=flags, file=file, known=catalogue.ALL)


_CONFIG = click.Option(
    ["--config"],
    type=click.Path(path_type=Path),
    help="TOML file whose keys are the names of the options below.  "
    "[BACKEND_CONFIG; default: backendai.toml in ~/.config/backendai or /etc/backendai]",
)


def _parameter(option: Option[Any]) -> str:
    return option.name.replace("-", "_")


def _as_click(option: Option[Any]) -> click.Option:
    help_text = f"{option.help}  [{option.variable}; default: {option.described_default()}]"
    # Values stay text here: what a value may be is checked in one place, whatever it comes from.
    if option.kind is kinds.FLAG:
        spelling = f"{option.flag}/--no-{option.name}"
        return click.Option([spelling], default=None, is_flag=True, help=help_text, hidden=option.internal)
    return click.Option(
        [option.flag], type=str, metavar=option.kind.metavar, help=help_text, hidden=option.internal
    )
