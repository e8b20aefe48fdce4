"""Dotfiles and bootstrap scripts, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, TypedDict

from msgspec import Meta

from backendai.core.errors import Forbidden, ObjectNotFound
from backendai.gateway.openapi.operation import Either, Operation
from backendai.gateway.openapi.shapes import Nothing, Succeeded, Text

Path = Annotated[str, Meta(description="From the home directory", min_length=1, max_length=1024)]
Permission = Annotated[str, Meta(pattern="^[0-7]{3}$")]
Content = Annotated[str, Meta(min_length=1, max_length=65536)]
Script = Annotated[str, Meta(max_length=65536)]


class StoredDotfile(TypedDict):
    path: str
    perm: str
    data: str


class ListedDotfile(TypedDict):
    path: str
    permission: str
    data: str


class DotfileWish(TypedDict):
    path: Path
    permission: Permission
    data: Content


class DotfileChoice(TypedDict):
    path: Path


class DotfilesWish(TypedDict, total=False):
    path: Path


class OfDomain(TypedDict):
    domain: Text


class OfProject(TypedDict):
    group: Annotated[str, Meta(description="Id, or name with `domain`", min_length=1, max_length=64)]
    domain: Text


class DomainDotfileWish(DotfileWish, OfDomain): ...


class DomainDotfileChoice(DotfileChoice, OfDomain): ...


class DomainDotfilesWish(DotfilesWish, OfDomain): ...


class ProjectDotfileWish(DotfileWish, OfProject): ...


class ProjectDotfileChoice(DotfileChoice, OfProject): ...


class ProjectDotfilesWish(DotfilesWish, OfProject): ...


class ScriptWish(TypedDict):
    script: Script


_dotfile = partial(Operation, tag="dotfiles")


def _operations(path: str, whose: str, wish: type, choice: type, selection: type) -> dict[str, Operation]:
    """Of one holder, whom the shapes name."""
    of_holder = partial(_dotfile, refusals=(ObjectNotFound, Forbidden), for_others=path == _OWN)
    return {
        f"POST {path}": of_holder(
            summary=f"Put a file into the home directory of new kernels of {whose}",
            body=wish,
            replies={200: Nothing},
        ),
        f"PATCH {path}": of_holder(
            summary=f"Change a dotfile of {whose}",
            body=wish,
            replies={200: Nothing},
        ),
        f"GET {path}": of_holder(
            summary=f"Dotfiles of {whose}",
            about="The one at `path`, or all.",
            query=selection,
            replies={200: Either((StoredDotfile, list[ListedDotfile]))},
        ),
        f"DELETE {path}": of_holder(
            summary=f"Remove a dotfile of {whose}",
            query=choice,
            replies={200: Succeeded},
        ),
    }


_OWN = "/user-config/dotfiles"
DOTFILES: Mapping[str, Operation] = {
    **_operations(_OWN, "a key pair", DotfileWish, DotfileChoice, DotfilesWish),
    **_operations(
        "/group-config/dotfiles", "a project", ProjectDotfileWish, ProjectDotfileChoice, ProjectDotfilesWish
    ),
    **_operations(
        "/domain-config/dotfiles", "a domain", DomainDotfileWish, DomainDotfileChoice, DomainDotfilesWish
    ),
    "POST /user-config/bootstrap-script": _dotfile(
        summary="Have a script run at the start of sessions",
        about="Of interactive ones that bring none of their own. An empty text ends that.",
        body=ScriptWish,
        replies={200: Nothing},
        for_others=True,
    ),
    "GET /user-config/bootstrap-script": _dotfile(
        summary="The script that is run at the start of sessions",
        replies={200: Script},
        for_others=True,
    ),
}
