"""Templates that sessions are made from (contract 05 §3), and what their repositories ask of a kernel."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

#: Templates of one user, and characters of all of them together.
MOST_TEMPLATES = 100
MOST_CHARACTERS = 1 << 20

_HOME = "/home/work"
#: Where nothing can be mounted: names in the home directory, and directories of the system.
_RESERVED_NAMES = frozenset({".terminfo", ".jupyter", ".tmux.conf", ".ssh"})
_SYSTEM_DIRECTORY = re.compile(
    "bin|boot|dev|etc|home|lib|lib64|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var"
)
_SHELL_FILE = re.compile(r"\..*(rc|_profile)")


class TemplateKind(StrEnum):
    SESSION = "task"
    CLUSTER = "cluster"


class TemplateDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A template to be kept: ``document`` in its normal form, and what else its sender said of it."""

    name: str
    document: dict[str, Any]
    project_id: UUID | None = None
    user_id: UUID | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A template as it is kept. ``document`` may hold the password of a repository."""

    id: UUID
    kind: TemplateKind
    name: str
    document: dict[str, Any]
    user_id: UUID
    user_email: str
    domain_name: str
    project_id: UUID | None
    project_name: str | None
    created_at: datetime


def check_mount_point(path: str) -> str:
    """Raises ValueError for a path in a kernel where no folder can be (contract 02 §2.3)."""
    full = posixpath.normpath(posixpath.join(_HOME, path))
    inside = full.removeprefix(f"{_HOME}/")
    if inside != full:
        reserved = inside in _RESERVED_NAMES or _SHELL_FILE.fullmatch(inside) is not None
    else:
        name = full.strip("/")
        reserved = not name or full == _HOME or _SYSTEM_DIRECTORY.fullmatch(name) is not None
    if reserved:
        raise ValueError(f"{full} is reserved for the system")
    return path


def clone_directory(repository: str, chosen: str | None) -> str:
    """Where a repository is cloned to, seen from the home directory. ValueError when it tells no name."""
    directory = chosen or posixpath.basename(repository.rstrip("/")).removesuffix(".git")
    if directory in ("", ".", ".."):
        raise ValueError("names no directory")
    return directory


def with_clone(script: str | None, git: Mapping[str, Any]) -> str:
    """A bootstrap script that then clones a repository, once: a restarted kernel finds it there.

    User and password are told to git alone, they come neither into its arguments nor into the clone.
    """
    repository = git["repository"]
    directory = clone_directory(repository, git["dest_dir"])
    words = ["git"]
    secrets = ["GIT_TERMINAL_PROMPT=0"]
    if git["credential"]:
        helper = '!f() { printf \'username=%s\\npassword=%s\\n\' "$CLONE_USER" "$CLONE_PASSWORD"; }; f'
        secrets += [
            f"CLONE_USER={shlex.quote(git['credential']['username'])}",
            f"CLONE_PASSWORD={shlex.quote(git['credential']['password'])}",
        ]
        words += ["-c", "credential.helper=", "-c", f"credential.helper={helper}"]
    words += ["clone", *([f"--branch={git['branch']}"] if git["branch"] else ()), "--", repository, directory]
    steps = [f"{' '.join(secrets)} {shlex.join(words)}"]
    if git["commit"]:
        steps.append(shlex.join(["git", "-C", directory, "checkout", "--quiet", git["commit"]]))
    hint = f"{repository} could not be cloned. Has this session a network? Its resource policy decides that."
    clone = (
        f"[ -e {shlex.quote(directory)} ] || {{ {' && '.join(steps)}; }} || "
        f"{{ echo {shlex.quote(hint)} >&2; exit 1; }}\n"
    )
    # In a process of its own, so that neither `cd` nor `exit` in it keeps us from cloning.
    return f"(\n{script}\n)\nended=$?\n{clone}exit $ended\n" if script else clone
