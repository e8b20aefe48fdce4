"""Where an option's value comes from, and what happens to a bad one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backendai.cli import catalogue as c
from backendai.cli import kinds
from backendai.cli.options import BadOption, Kind, Option, Origin, Settings, environment, find_file, resolve
from backendai.core.account import Secret


def values(
    *options: Option[Any],
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    return resolve(options, flags=flags or {}, environ=environ or {}, file=file, known=c.ALL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backendai.toml"


def origin_of(settings: Settings) -> Origin:
    (setting,) = settings
    return setting.origin


def test_flag_goes_before_environment_before_file_before_default(file: Path) -> None:
    file.write_text("database-pool = 5")
    environ = {"BACKEND_DATABASE_POOL": "6"}
    pool = c.DATABASE_POOL
    flagged = values(pool, flags={"database-pool": "7"}, environ=environ, file=file)
    assert (flagged[pool], origin_of(flagged)) == (7, Origin.FLAG)
    assert values(pool, environ=environ, file=file)[pool] == 6
    assert values(pool, environ={"BACKEND_DATABASE_POOL": ""}, file=file)[pool] == 5
    assert origin_of(values(pool)) is Origin.DEFAULT


@pytest.mark.parametrize("option", c.ALL, ids=lambda option: option.name)
def test_every_option_reads_back_what_it_writes(option: Option[Any]) -> None:
    """What `up` hands to its processes by environment arrives as it was."""
    assert option.help.endswith((".", ")"))
    if option.default is None:
        return
    (variable,) = environment({option: option.default})
    if not option.default:
        return  # an empty variable counts as unset, which is the default again
    assert values(option, environ={variable: option.kind.write(option.default)})[option] == option.default


def test_names_are_unique_and_those_of_the_contract_are_kept() -> None:
    variables = [option.variable for option in c.ALL]
    assert len(set(variables)) == len(variables)
    assert set(variables) >= {
        f"BACKEND_{name}"
        for name in (
            "SERVICE_IP", "SERVICE_PORT", "REDIS_ADDR", "DB_ADDR", "DB_NAME", "DB_USER", "DB_PASSWORD",
            "SSL_CERT", "SSL_KEY", "EVENTS_PORT", "AGENT_PORT", "HEARTBEAT_TIMEOUT", "DEBUG",
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("database-pol = 5", "unknown key 'database-pol', did you mean 'database-pool'?"),
        ("ready-fd = 5", "unknown key 'ready-fd'"),
        ("database-pool = 'many'", "database-pool: expected a whole number from 2, not 'many'"),
        ("database-pool = true", "database-pool: expected a whole number from 2, not True"),
        ("database-pool", "not TOML"),
        ("log-level = 'loud'", "expected one of debug, info, warning, error, not 'loud'"),
    ],
)
def test_a_bad_file_is_one_clear_line(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(BadOption) as caught:
        values(c.DATABASE_POOL, c.LOG_LEVEL, file=file)
    assert str(caught.value).startswith(f"{file}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_complaint_about_a_secret_does_not_tell_it() -> None:
    with pytest.raises(BadOption) as caught:
        values(c.DATABASE_URL, environ={"BACKEND_DATABASE_URL": "mysql://u:hush@h/d"})
    assert "hush" not in str(caught.value)
    assert "BACKEND_DATABASE_URL" in str(caught.value)


def test_a_secret_is_masked_when_shown() -> None:
    assert c.DATABASE_URL.show(Secret("postgresql://u:hush@h/d")) == "***"


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"nothing\.toml does not exist"):
        find_file(tmp_path / "nothing.toml", {})
    with pytest.raises(BadOption, match="does not exist"):
        find_file(None, {"BACKEND_CONFIG": str(tmp_path / "nothing.toml")})


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (kinds.SIZE, "1.5g", 3 << 29),
        (kinds.SIZE, 65536, 65536),
        (kinds.DURATION, "500ms", timedelta(milliseconds=500)),
        (kinds.DURATION, 90, timedelta(seconds=90)),
        (kinds.DURATION, "7d", timedelta(days=7)),
        (kinds.FLAG, "Yes", True),
        (kinds.FLAG, False, False),
        (kinds.NAMES, "a, b,", ("a", "b")),
        (kinds.NAMES, ["a"], ("a",)),
        (kinds.ADDRESS, "db.example:5432", ("db.example", 5432)),
        (kinds.ADDRESS, "[::1]:5432", ("::1", 5432)),
        (kinds.ENDPOINT, "tcp://[::1]:5002", "tcp://[::1]:5002"),
        (kinds.PATH, "relative", Path.cwd() / "relative"),
    ],
)
def test_good_values(kind: Kind[Any], raw: Any, value: Any) -> None:
    assert kind.read(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (kinds.SIZE, "1.5x"),
        (kinds.SIZE, "-1"),
        (kinds.SIZE, True),
        (kinds.DURATION, "soon"),
        (kinds.FLAG, "maybe"),
        (kinds.NAMES, [1]),
        (kinds.ADDRESS, "5432"),
        (kinds.ADDRESS, "host:70000"),
        (kinds.ENDPOINT, "127.0.0.1:5002"),
        (kinds.PATH, ""),
        (kinds.PORT, "65536"),
        (kinds.number(0), "0"),
        (kinds.number(0), "nan"),
        (kinds.REDIS_URL, "http://x"),
    ],
)
def test_bad_values(kind: Kind[Any], raw: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        kind.read(raw)
