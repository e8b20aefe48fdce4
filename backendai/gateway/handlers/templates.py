"""Templates of sessions and clusters (contract 05 §3)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import yaml

from backendai.core.errors import ObjectNotFound
from backendai.core.template import Template, TemplateKind
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import Gate, Route
from backendai.gateway.template_document import MAX_PAYLOAD, draft_of, read_drafts
from backendai.gateway.versions import ApiVersion

#: Since when a template is answered with what is known about it, and a list of all that were made.
_WITH_ABOUT = ApiVersion(6, "20220315")
_LISTS_MADE = ApiVersion(7, "20230615")
#: Clients talk in the version of the older side, so these have to be told by their names.
_CLIENT = re.compile(r"Backend\.AI Client for Python (\d+)\.")
_CLIENT_LISTS_MADE = 23


async def create(call: Call, *, kind: TemplateKind) -> Reply:
    fields = Fields(call.parameters)
    payload = fields.text("payload", required=True, limit=MAX_PAYLOAD)
    project = fields.text("group", "groupName", "group_name", default="default", limit=64)
    domain = fields.text("domain", "domainName", "domain_name", default="default", limit=64)
    fields.check()
    owner = await call.owner()
    ids = await call.services.templates.create(
        call.principal, owner, kind, read_drafts(payload, kind), domain=domain, project=project
    )
    made = [{"id": each.hex, "user": owner.user_id.hex} for each in ids]
    return json_reply(made if kind is TemplateKind.SESSION and _expects_list(call) else made[-1])


def _expects_list(call: Call) -> bool:
    if call.version >= _LISTS_MADE:
        return True
    client = _CLIENT.match(call.headers.get("user-agent", ""))
    return client is not None and int(client[1]) >= _CLIENT_LISTS_MADE


async def index(call: Call, *, kind: TemplateKind) -> Reply:
    fields = Fields(call.parameters)
    everybodys = fields.boolean("all")
    project_id = fields.uuid("group_id", "groupId")
    fields.check()
    owner = await call.owner()
    found = await call.services.templates.visible(owner, kind, everybodys=everybodys, project_id=project_id)
    newer = kind is TemplateKind.SESSION and call.version >= _WITH_ABOUT
    return json_reply([_item(each, owner.user_id, newer=newer) for each in found])


def _item(template: Template, user_id: UUID, *, newer: bool) -> dict[str, Any]:
    is_owner = template.user_id == user_id
    item = {
        "name": template.name,
        "id": template.id.hex,
        "created_at": str(template.created_at),
        "is_owner": is_owner,
        "user": str(template.user_id),
        "group": template.project_id and str(template.project_id),
        "user_email": template.user_email,
        "group_name": template.project_name,
        "type": "user" if is_owner else "group",
    }
    if newer:
        item |= {"type": "task", "domain_name": template.domain_name, "template": template.document}
    return item


async def show(call: Call, *, kind: TemplateKind) -> Reply:
    """As older clients expect it, the document alone; as newer ones do, with what is known about it."""
    fields = Fields(call.parameters)
    form = fields.choice("format", default="yaml", allowed=("yaml", "json"), kind="formats")
    fields.check()
    template = await call.services.templates.get(await call.owner(), kind, _id(call))
    if kind is TemplateKind.CLUSTER or call.version >= _WITH_ABOUT:
        return json_reply(
            {
                "template": template.document,
                "name": template.name,
                "user_uuid": str(template.user_id),
                "group_id": template.project_id and str(template.project_id),
                "domain_name": template.domain_name,
            }
        )
    if form == "json":
        return json_reply(template.document)
    text = yaml.safe_dump(template.document, sort_keys=False, allow_unicode=True)
    return Reply(200, text.encode(), ((b"content-type", b"text/yaml; charset=utf-8"),))


async def replace(call: Call, *, kind: TemplateKind) -> Reply:
    fields = Fields(call.parameters)
    payload = fields.text("payload", required=True, limit=MAX_PAYLOAD)
    project = fields.optional_text("group", "groupName", "group_name", limit=64)
    domain = fields.optional_text("domain", "domainName", "domain_name", limit=64)
    fields.check()
    await call.services.templates.replace(
        call.principal,
        await call.owner(),
        kind,
        _id(call),
        draft_of(payload, kind),
        domain=domain,
        project=project,
    )
    return json_reply({"success": True})


async def remove(call: Call, *, kind: TemplateKind) -> Reply:
    await call.services.templates.remove(await call.owner(), kind, _id(call))
    return json_reply({"success": True})


def _id(call: Call) -> UUID:
    try:
        return UUID(call.arguments["template_id"])
    except ValueError:
        raise ObjectNotFound("task template") from None


def _routes(root: str, kind: TemplateKind) -> tuple[Route, ...]:
    one = f"{root}/<template_id>"

    def changing(method: str, path: str, handler: Callable[..., Awaitable[Reply]]) -> Route:
        return Route(
            method=method,
            path=path,
            handler=partial(handler, kind=kind),
            gate=Gate.READ,
            changes_state=True,
        )

    return (
        changing("POST", root, create),
        Route(method="GET", path=root, handler=partial(index, kind=kind), gate=Gate.READ),
        Route(method="GET", path=one, handler=partial(show, kind=kind), gate=Gate.READ),
        changing("PUT", one, replace),
        changing("DELETE", one, remove),
    )


ROUTES = (
    *_routes("/template/session", TemplateKind.SESSION),
    *_routes("/template/cluster", TemplateKind.CLUSTER),
)
