"""The key files of the link between managers and agents.

A manager's file holds its CURVE key pair; an agent's file holds its own, and what it was told of its manager
when it was enrolled. Both are readable by their owner only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backendai.bridges.zmq import new_curve_keys
from backendai.core.account import Secret

_Z85_LENGTH = 40


class BadKeyFile(Exception):
    """A key file is missing, or does not hold what it should."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Z85 text, 40 characters each."""

    public_key: str
    secret_key: Secret = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledKeys:
    """An agent's key pair and the manager it belongs to."""

    pair: KeyPair
    manager_public_key: str
    #: Where the manager awaits facts; None when the agent is told otherwise.
    manager_endpoint: str | None = None


def new_key_pair() -> KeyPair:
    return KeyPair(*new_curve_keys())


def ensure_manager_keys(path: Path) -> KeyPair:
    """Read a manager's key pair; make it first when there is no such file. Raises :class:`BadKeyFile`."""
    if not path.exists():
        pair = new_key_pair()
        content = {"public_key": pair.public_key, "secret_key": pair.secret_key.reveal()}
        # Another process may make it at the same time: the first file stays, and is read below.
        _write(path, content, replace=False)
    content = _read(path)
    return KeyPair(_key(content, "public_key", path), Secret(_key(content, "secret_key", path)))


def read_agent_keys(path: Path) -> EnrolledKeys:
    """Read what :func:`write_agent_keys` wrote. Raises :class:`BadKeyFile`."""
    content = _read(path)
    return EnrolledKeys(
        pair=KeyPair(_key(content, "public_key", path), Secret(_key(content, "secret_key", path))),
        manager_public_key=_key(content, "manager_public_key", path),
        manager_endpoint=content.get("manager_endpoint"),
    )


def write_agent_keys(path: Path, keys: EnrolledKeys) -> None:
    """Keep an enrolled agent's keys."""
    content = {
        "public_key": keys.pair.public_key,
        "secret_key": keys.pair.secret_key.reveal(),
        "manager_public_key": keys.manager_public_key,
    }
    if keys.manager_endpoint is not None:
        content["manager_endpoint"] = keys.manager_endpoint
    _write(path, content, replace=True)


def ensure_agent_keys(path: Path, *, manager_public_key: str) -> EnrolledKeys:
    """The keys of an agent on the manager's own host; made anew when missing or made for another manager."""
    if path.exists():
        keys = read_agent_keys(path)
        if keys.manager_public_key == manager_public_key:
            return keys
    keys = EnrolledKeys(pair=new_key_pair(), manager_public_key=manager_public_key)
    write_agent_keys(path, keys)
    return keys


def _write(path: Path, content: Mapping[str, str], *, replace: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    if not replace:
        with suppress(FileExistsError):
            os.link(unfinished, path)
        unfinished.unlink()
    else:
        unfinished.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadKeyFile(f"key file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise BadKeyFile(f"key file {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise BadKeyFile(f"key file {path} does not hold keys")
    return content


def _key(content: Mapping[str, Any], name: str, path: Path) -> str:
    value = content.get(name)
    if not isinstance(value, str) or len(value) != _Z85_LENGTH:
        raise BadKeyFile(f"key file {path} has no valid {name}")
    return value
