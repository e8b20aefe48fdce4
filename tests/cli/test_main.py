"""The command line as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from backendai.cli import catalogue as c
from backendai.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


def backendai(
    *arguments: str, environ: Mapping[str, str] | None = None, program: tuple[str, ...] = ("-m", "backendai")
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKEND_")}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env={**clean, **(environ or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_is_quick_and_lists_the_commands() -> None:
    heavy = ("trio", "asyncpg", "sqlalchemy", "quart_trio", "zmq")
    loaded = backendai(program=("-c", f"""
import sys
from backendai.cli.main import cli
cli.main(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules])
"""))  # fmt: skip
    assert loaded.stdout.splitlines()[-1] == "[]"
    assert all(command in loaded.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    answer = backendai(command, "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"Usage: backendai {command}")


def test_help_names_variable_and_default_of_every_option() -> None:
    answer = backendai("gateway", "--help", environ={"COLUMNS": "300"})
    text = " ".join(answer.stdout.split())
    for option in c.GATEWAY_COMMAND:
        if option.internal:
            assert option.flag not in text
        else:
            assert option.flag in text
            assert option.variable in text


def test_the_gateway_module_shows_the_same_options() -> None:
    answer = backendai("--help", program=("-m", "backendai.gateway.server"))
    assert answer.returncode == 0
    assert "--database-url" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command 'nonsense'."),
        (["up", "--nonsense"], "No such option '--nonsense'."),
        (["up", "--http-port", "x"], "--http-port: expected a whole number from 0 to 65535, not 'x'"),
        (["config", "show", "--config", "/nowhere"], "configuration file /nowhere does not exist"),
        (["agent", "--agent-dir", "/nowhere"], "key file /nowhere/keys.json does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    answer = backendai(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"backendai: {complaint}")
    assert answer.stderr.count("\n") == 1


def test_config_show_tells_values_and_origins_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "backendai.toml"
    file.write_text('db-password = "hush-file"\nhttp-port = 1234\n')
    environ = {
        "BACKEND_CONFIG": str(file),
        "BACKEND_REDIS_URL": "redis://:hush-redis@h:1",
        "BACKEND_WARM_POOL": "3",
    }
    answer = backendai("config", "show", "--json", "--region", "here", environ=environ)
    shown = json.loads(answer.stdout)
    assert shown["db-password"] == {"value": "***", "origin": "file", "where": str(file)}
    assert shown["redis-url"] == {"value": "***", "origin": "environment", "where": "BACKEND_REDIS_URL"}
    assert shown["http-port"] == {"value": "1234", "origin": "file", "where": str(file)}
    assert shown["warm-pool"]["value"] == "3"
    assert shown["region"] == {"value": "here", "origin": "flag", "where": "--region"}
    assert shown["log-level"]["origin"] == "default"
    text = backendai("config", "show", environ=environ)
    assert "hush" not in answer.stdout + text.stdout
    assert backendai("config", "check", environ=environ).returncode == 0


def test_doctor_judges_this_machine() -> None:
    answer = backendai("doctor", "--json", "--http-port", "0", "--https-port", "0")
    found = {row["name"]: row for row in json.loads(answer.stdout)}
    assert {"sandbox", "memory", "disk"} <= set(found)
    assert all(row["ok"] or (row["cost"] and row["mend"]) for row in found.values())
    assert answer.returncode == (0 if all(row["ok"] or not row["vital"] for row in found.values()) else 1)


def test_images_are_listed_with_their_short_names() -> None:
    images = json.loads(backendai("image", "ls", "--json").stdout)
    assert any("python" in image["aliases"] for image in images)
    assert any("bash" in image["aliases"] for image in images)
