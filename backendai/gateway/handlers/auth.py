"""``/auth``: does my signature work, and what am I (contract 05 §1)."""

from __future__ import annotations

from backendai.core.account import UserRole
from backendai.core.errors import ObjectNotFound
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import VERSIONED, Route

_MAX_ECHO = 64 << 10


async def echo(call: Call) -> Reply:
    # Clients before 20.03 may leave it out.
    fields = Fields(call.parameters)
    text = fields.text("echo", required=call.version.major >= 5, limit=_MAX_ECHO)
    fields.check()
    return json_reply({"authorized": "yes", "echo": text})


async def role(call: Call) -> Reply:
    principal = call.principal
    fields = Fields(call.parameters)
    group = fields.uuid("group")
    fields.check()
    if group is not None and group not in {
        each for each, _ in await call.services.accounts.groups_of(principal)
    }:
        raise ObjectNotFound("project (user group)")
    return json_reply(
        {
            "global_role": "superadmin" if principal.role is UserRole.SUPERADMIN else "user",
            "domain_role": "user" if principal.role is UserRole.USER else "admin",
            "group_role": None if group is None else "user",
        }
    )


ROUTES = (
    *(
        Route(method=method, path=path, handler=echo)
        for path in ("/auth", "/auth/test", f"{VERSIONED}/auth", f"{VERSIONED}/auth/test")
        for method in ("GET", "POST")
    ),
    Route(method="GET", path=f"{VERSIONED}/authorize", handler=echo),
    Route(method="GET", path="/auth/role", handler=role),
)
