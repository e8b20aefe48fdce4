"""The command group ``backendai``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from backendai import __version__
from backendai.cli.options import BadOption

#: Commands, the module and attribute each is in, and the line that the group's help shows (so that it loads
#: none).
COMMANDS = {
    "up": ("up:up", "Start everything: databases, gateway, one agent."),
    "gateway": ("gateway:gateway", "Run one gateway process."),
    "agent": ("agent:agent", "Run the agent of this host, or enroll it."),
    "db": ("db:db", "Bring the database to this version's tables, or compare."),
    "config": ("config:config", "Show or check the configuration."),
    "doctor": ("doctor:doctor", "Tell what this machine lacks and what that costs."),
    "image": ("image:image", "See which images kernels can be started from."),
    "session": ("session:session", "Tell why a session waits, why it ended, when it will be stopped."),
    "shell": ("shell:shell", "Type code and see what it does, in a session of its own."),
    "request": ("request:request", "Send one signed request to the API."),
    "sign": ("request:sign", "Print the headers of a signed request, for curl."),
}


class LazyGroup(click.Group):
    """A group that loads a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(
            importlib.import_module(f"backendai.cli.commands.{module}"), attribute
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="backendai")
def cli() -> None:
    """Compute sessions behind the Backend.AI client API."""


def main(arguments: list[str] | None = None, **extra: Any) -> None:
    """Run a command line and exit: 0 well, 1 it failed, 2 it was asked wrongly, 130 interrupted.

    Whatever the person who called can put right is one line on stderr.
    """
    try:
        outcome = cli.main(arguments, prog_name="backendai", standalone_mode=False, **extra)
    except BadOption as error:
        stop(str(error), status=2)
    except click.UsageError as error:
        stop(error.format_message(), status=2)
    except click.ClickException as error:
        stop(error.format_message(), status=1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(outcome if isinstance(outcome, int) else 0)


def stop(message: str, *, status: int) -> None:
    click.echo(f"backendai: {message}", err=True)
    sys.exit(status)
