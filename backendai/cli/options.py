"""What a server option is, and how its value is found: flag, environment, file, default.

An :class:`Option` is defined once (in :mod:`backendai.cli.catalogue`); its flag, its environment variable and
its key in the TOML file are all made from its name.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import platformdirs

T = TypeVar("T")


class BadOption(Exception):
    """A value or key that cannot be used; the text is one line for the person who set it."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of value: how it is read, and how it is written back so that it reads the same again.

    ``read`` takes text, or what TOML holds, and raises ValueError with a word on what was expected.
    """

    metavar: str
    read: Callable[[Any], T]
    write: Callable[[T], str] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option(Generic[T]):
    #: ``http-port`` makes ``--http-port``, ``BACKEND_HTTP_PORT`` and the key ``http-port``.
    name: str
    kind: Kind[T]
    help: str
    default: T | None = None
    #: What ``--help`` says of the default where the value itself would not tell.
    default_text: str | None = None
    secret: bool = False
    #: Left out of ``--help``: for the processes that ``up`` starts.
    internal: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name

    @property
    def variable(self) -> str:
        return "BACKEND_" + self.name.upper().replace("-", "_")

    def read(self, raw: Any, where: str) -> T:
        """Turn a raw value into ours. Raises :class:`BadOption`, which names ``where`` it came from."""
        try:
            return self.kind.read(raw)
        except ValueError as error:
            shown = "" if self.secret else f", not {raw!r}"
            raise BadOption(f"{where}: expected {error}{shown}") from None

    def show(self, value: T | None) -> str:
        """The value for people: secrets masked, nothing as ``-``."""
        if value is None:
            return "-"
        return "***" if self.secret else self.kind.write(value)

    def described_default(self) -> str:
        return self.default_text or self.show(self.default)


class Origin(StrEnum):
    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """The value an option came to have. ``where`` names the flag, variable or file it came from."""

    option: Option[T]
    value: T | None
    origin: Origin
    where: str


class Settings:
    """The values of a set of options."""

    def __init__(self, settings: Iterable[Setting[Any]], file: Path | None = None) -> None:
        #: The configuration file that was read.
        self.file = file
        self._settings = {setting.option.name: setting for setting in settings}

    def __iter__(self) -> Iterator[Setting[Any]]:
        return iter(self._settings.values())

    def __getitem__(self, option: Option[T]) -> T:
        """The value of an option that always has one."""
        value = self.get(option)
        if value is None:
            raise BadOption(f"{option.flag} (or {option.variable}) must be set")
        return value

    def get(self, option: Option[T]) -> T | None:
        value: T | None = self._settings[option.name].value
        return value

    def given(self, option: Option[Any]) -> bool:
        """Whether anybody set it."""
        return self._settings[option.name].origin is not Origin.DEFAULT


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file: the one asked for, or the first that exists in the usual places, or None.

    Raises :class:`BadOption` when the one asked for does not exist.
    """
    asked = path or (Path(environ["BACKEND_CONFIG"]) if environ.get("BACKEND_CONFIG") else None)
    if asked is not None:
        if not asked.is_file():
            raise BadOption(f"configuration file {asked} does not exist")
        return asked.absolute()
    own = platformdirs.user_config_path("backendai", appauthor=False) / "backendai.toml"
    return next(
        (place for place in (own, Path("/etc/backendai/backendai.toml")) if os.path.isfile(place)), None
    )


def read_file(path: Path, known: Iterable[Option[Any]]) -> Mapping[str, Any]:
    """The keys of a file and their raw values. Raises :class:`BadOption`: bad TOML, unknown key."""
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise BadOption(f"{path}: cannot be read: {error.strerror}") from None
    names = [option.name for option in known if not option.internal]
    for key in content:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            raise BadOption(
                f"{path}: unknown key {key!r}" + (f", did you mean {close[0]!r}?" if close else "")
            )
    return content


def resolve(
    options: Sequence[Option[Any]],
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    file: Path | None = None,
    known: Sequence[Option[Any]],
) -> Settings:
    """Find the value of every option. ``flags`` is keyed by option name, None meaning not given.

    ``known`` are all options a file may hold, for this command or another. Raises :class:`BadOption`.
    """
    content = read_file(file, known) if file is not None else {}
    return Settings([_resolve_one(option, flags, environ, content, file) for option in options], file)


def _resolve_one(
    option: Option[T],
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    content: Mapping[str, Any],
    file: Path | None,
) -> Setting[T]:
    if flags.get(option.name) is not None:
        value = option.read(flags[option.name], option.flag)
        return Setting(option, value, Origin.FLAG, option.flag)
    # An empty variable counts as unset: that is what `NAME= command` is written for.
    if environ.get(option.variable):
        value = option.read(environ[option.variable], option.variable)
        return Setting(option, value, Origin.ENVIRONMENT, option.variable)
    if option.name in content:
        return Setting(
            option, option.read(content[option.name], f"{file}: {option.name}"), Origin.FILE, str(file)
        )
    return Setting(option, option.default, Origin.DEFAULT, "default")


def environment(values: Mapping[Option[Any], Any]) -> dict[str, str]:
    """The environment variables that give a process these values; None leaves one out."""
    return {
        option.variable: option.kind.write(value) for option, value in values.items() if value is not None
    }
