"""Dotfiles of users, projects and domains; the bootstrap script of a key pair (contract 05 §2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from backendai.core.account import Principal
from backendai.core.dotfiles import MOST_CHARACTERS, Holder, HolderKind, check_permission, path_at_home
from backendai.core.errors import AuthFailed
from backendai.core.kernel import Dotfile
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import Gate, Route

#: Whose files a request is about: takes its own parameters, and whether it changes anything.
HolderOf = Callable[[Call, Fields, bool], Awaitable[Holder]]

_SCRIPT = 65536


async def _of_keypair(call: Call, fields: Fields, _changes: bool) -> Holder:
    # Clients misspell the parameter when they ask for the list.
    misspelt = fields.optional_text("onwer_access_key", limit=64)
    fields.check()
    if misspelt is None:
        owner = await call.owner()
    else:
        owner = await call.services.accounts.acting_as(call.principal, misspelt)
    return Holder(HolderKind.KEYPAIR, owner.access_key)


async def _of_project(call: Call, fields: Fields, changes: bool) -> Holder:
    project = fields.text("group", "groupId", "group_id", required=True, limit=64)
    domain = fields.optional_text("domain", limit=64)
    fields.check()
    requester = _admin(call) if changes else call.principal
    return await call.services.dotfiles.project(requester, project, domain, to_change=changes)


async def _of_domain(call: Call, fields: Fields, changes: bool) -> Holder:
    domain = fields.text("domain", required=True, limit=64)
    fields.check()
    return call.services.dotfiles.domain(_admin(call) if changes else call.principal, domain)


def _admin(call: Call) -> Principal:
    if not (call.principal.is_admin or call.principal.is_superadmin):
        raise AuthFailed("Unauthorized access")
    return call.principal


async def create(call: Call, *, holder_of: HolderOf) -> Reply:
    fields = Fields(call.parameters)
    file = _file(fields)
    await call.services.dotfiles.add(await holder_of(call, fields, True), file)
    return json_reply({})


async def update(call: Call, *, holder_of: HolderOf) -> Reply:
    fields = Fields(call.parameters)
    file = _file(fields)
    await call.services.dotfiles.replace(await holder_of(call, fields, True), file)
    return json_reply({})


async def delete(call: Call, *, holder_of: HolderOf) -> Reply:
    fields = Fields(call.parameters)
    path = fields.custom("path", convert=_path, default="", required=True)
    await call.services.dotfiles.remove(await holder_of(call, fields, True), path)
    return json_reply({"success": True})


async def show(call: Call, *, holder_of: HolderOf) -> Reply:
    """One by its path, or all: clients expect its permission by different names."""
    fields = Fields(call.parameters)
    path = fields.custom("path", convert=_path, default=None)
    holder = await holder_of(call, fields, False)
    if path is None:
        return json_reply(await call.services.dotfiles.files(holder))
    file = await call.services.dotfiles.file(holder, path)
    return json_reply({"path": file.path, "perm": file.permission, "data": file.data})


async def set_bootstrap_script(call: Call) -> Reply:
    fields = Fields(call.parameters)
    script = fields.free_text("script", limit=_SCRIPT, required=True)
    fields.check()
    await call.services.dotfiles.set_bootstrap_script(await call.owner(), script.strip())
    return json_reply({})


async def bootstrap_script(call: Call) -> Reply:
    return json_reply(await call.services.dotfiles.bootstrap_script(await call.owner()))


def _file(fields: Fields) -> Dotfile:
    return Dotfile(
        path=fields.custom("path", convert=_path, default="", required=True),
        permission=fields.custom("permission", convert=_permission, default="", required=True),
        data=fields.text("data", required=True, limit=MOST_CHARACTERS),
    )


def _path(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("value is not a string" if value else "blank value is not allowed")
    return path_at_home(value)


def _permission(value: object) -> str:
    return check_permission(value if isinstance(value, str) else "")


def _routes(path: str, holder_of: HolderOf) -> tuple[Route, ...]:
    def changing(method: str, handler: Callable[..., Awaitable[Reply]]) -> Route:
        return Route(
            method=method,
            path=path,
            handler=partial(handler, holder_of=holder_of),
            gate=Gate.READ,
            changes_state=True,
        )

    return (
        changing("POST", create),
        changing("PATCH", update),
        changing("DELETE", delete),
        Route(method="GET", path=path, handler=partial(show, holder_of=holder_of), gate=Gate.READ),
    )


_SCRIPT_PATH = "/user-config/bootstrap-script"
ROUTES = (
    *_routes("/user-config/dotfiles", _of_keypair),
    *_routes("/group-config/dotfiles", _of_project),
    *_routes("/domain-config/dotfiles", _of_domain),
    Route(
        method="POST",
        path=_SCRIPT_PATH,
        handler=set_bootstrap_script,
        gate=Gate.READ,
        changes_state=True,
    ),
    Route(method="GET", path=_SCRIPT_PATH, handler=bootstrap_script, gate=Gate.READ),
)
