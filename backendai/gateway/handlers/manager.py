"""``/manager``: the state of the installation and the word of the day (contract 03 §10)."""

from __future__ import annotations

from backendai.core.errors import InvalidParameters
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import NO_CONTENT, Reply, json_reply
from backendai.gateway.route import VERSIONED, Route

_STATUSES = frozenset({"running", "frozen"})


async def status(call: Call) -> Reply:
    return json_reply(await call.services.status.status())


async def set_status(call: Call) -> Reply:
    principal = call.require_superadmin()
    fields = Fields(call.parameters)
    wanted = fields.text("status", required=True).lower()
    if wanted and wanted not in _STATUSES:
        fields.refuse("status", "value is not a valid member of ManagerStatus")
    force_kill = fields.boolean("force_kill")
    fields.check()
    await call.services.status.set_status(principal, wanted, force_kill)
    return NO_CONTENT


async def announcement(call: Call) -> Reply:
    return json_reply(await call.services.status.announcement())


async def set_announcement(call: Call) -> Reply:
    principal = call.require_superadmin()
    fields = Fields(call.parameters)
    enabled = fields.boolean("enabled")
    message = fields.free_text("message", limit=16 << 10)
    fields.check()
    if enabled and not message:
        raise InvalidParameters("Empty message not allowed to enable announcement")
    await call.services.status.set_announcement(principal, enabled, message)
    return NO_CONTENT


ROUTES = tuple(
    route
    for prefix in ("", VERSIONED)
    for route in (
        Route(method="GET", path=f"{prefix}/manager/status", handler=status, signed=False),
        Route(method="PUT", path=f"{prefix}/manager/status", handler=set_status, changes_state=True),
        Route(method="GET", path=f"{prefix}/manager/announcement", handler=announcement, signed=False),
        Route(
            method="POST", path=f"{prefix}/manager/announcement", handler=set_announcement, changes_state=True
        ),
    )
)
