"""Files that users, projects and domains want in the home directory of every kernel (contract 05 §2)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from uuid import UUID

import msgspec

from backendai.core.errors import DotfileNotMade, DotfileTaken, ObjectNotFound
from backendai.core.kernel import Dotfile

#: Most files of one holder, and bytes of all of them together in MessagePack.
MOST_FILES = 100
MOST_BYTES = 65536
#: Characters of one file.
MOST_CHARACTERS = 65536
_HOME = "/home/work/"
_PERMISSION = re.compile("[0-7]{3}")
#: What the system keeps there itself: these paths, and of the files among them also what would be below.
_RESERVED_FILES = frozenset({".ssh/authorized_keys", ".bootstrap.sh", "id_container"})
_RESERVED = _RESERVED_FILES | {".terminfo", ".jupyter", ".ssh", ".local", ".config"}


class HolderKind(StrEnum):
    KEYPAIR = "keypair"
    PROJECT = "project"
    DOMAIN = "domain"


class Holder(msgspec.Struct, frozen=True):
    """Whose files they are: an access key, the id of a project or the name of a domain."""

    kind: HolderKind
    id: str | UUID


def path_at_home(text: str) -> str:
    """The path from the home directory of a file that may be put there. ValueError says why it may not."""
    path = posixpath.normpath(text.removeprefix(_HOME))
    parts = path.split("/")
    if path.startswith("/") or parts[0] in (".", ".."):
        raise ValueError("must be a path below the home directory")
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 1024:
        raise ValueError("is too long")
    above = {"/".join(parts[:n]) for n in range(1, len(parts))}
    if path in _RESERVED or above & _RESERVED_FILES:
        raise ValueError("is reserved for the system")
    return path


def check_permission(text: str) -> str:
    """Raises ValueError for anything but three octal digits."""
    if _PERMISSION.fullmatch(text) is None:
        raise ValueError("must be three octal digits")
    return text


def with_new(files: Sequence[Dotfile], new: Dotfile) -> list[Dotfile]:
    """Raises :class:`DotfileTaken`, or :class:`DotfileNotMade` when there would be too much of it."""
    if any(each.path == new.path for each in files):
        raise DotfileTaken
    if len(files) >= MOST_FILES:
        raise DotfileNotMade(f"There are {MOST_FILES} already.")
    return _checked([*files, new], new)


def with_changed(files: Sequence[Dotfile], changed: Dotfile) -> list[Dotfile]:
    """Raises :class:`ObjectNotFound`, or :class:`DotfileNotMade` when there would be too much of it."""
    if all(each.path != changed.path for each in files):
        raise ObjectNotFound("dotfile")
    return _checked([changed if each.path == changed.path else each for each in files], changed)


def _checked(files: list[Dotfile], new: Dotfile) -> list[Dotfile]:
    other = next((each.path for each in files if _one_below_other(each.path, new.path)), None)
    if other is not None:
        raise DotfileNotMade(f"One of {new.path} and {other} would have to be a directory.")
    listed = [{"path": each.path, "perm": each.permission, "data": each.data} for each in files]
    if len(msgspec.msgpack.encode(listed)) > MOST_BYTES:
        raise DotfileNotMade(f"All of them together would take more than {MOST_BYTES} bytes.")
    return files


def in_force(holders: Iterable[Sequence[Dotfile]]) -> tuple[Dotfile, ...]:
    """What a kernel gets, of several holders' files with the first holder's going before the second's.

    Where one path would have to be both a file and a directory, the same precedence holds.
    """
    chosen: dict[str, Dotfile] = {}
    for files in holders:
        for file in files:
            if file.path not in chosen and not any(_one_below_other(file.path, path) for path in chosen):
                chosen[file.path] = file
    return tuple(chosen.values())


def _one_below_other(one: str, other: str) -> bool:
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")
