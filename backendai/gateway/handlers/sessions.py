"""``/session``, and ``/kernel`` as old clients call it: the life of sessions (contract 02)."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from backendai.core.errors import InvalidParameters
from backendai.core.session import SessionWish
from backendai.core.template import Template, TemplateKind
from backendai.gateway.call import Call
from backendai.gateway.idempotency import idempotency_of
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import NO_CONTENT, Reply, json_reply
from backendai.gateway.route import VERSIONED, Gate, Route
from backendai.gateway.session_view import created_view, info_view, service_port
from backendai.gateway.session_wish import NAME_PATTERN, parse_wish
from backendai.gateway.template_wish import parse_cluster_wish, parse_template_wish


async def create(call: Call) -> Reply:
    return await _created(call, parse_wish(call.parameters, call.version, datetime.now(UTC)))


async def create_from_template(call: Call) -> Reply:
    template = await _template(call)
    wish = parse_template_wish(call.parameters, template, call.version, datetime.now(UTC))
    return await _created(call, wish)


async def create_cluster(call: Call) -> Reply:
    """Known to clients of ``/kernel`` only, which expect the names of that time."""
    fields = Fields(call.parameters)
    template_id = fields.uuid("template_id", "templateId")
    if template_id is None:
        raise InvalidParameters.of(fields.problems or {"template_id": "is required"})
    owner, templates = await call.owner(), call.services.templates
    cluster = await templates.get(owner, TemplateKind.CLUSTER, template_id)
    ids = [UUID(node["session_template"]) for node in cluster.document["spec"]["nodes"]]
    nodes = await templates.get_all(owner, TemplateKind.SESSION, ids)
    wish = parse_cluster_wish(call.parameters, cluster, nodes, call.version, datetime.now(UTC))
    call.legacy = True
    return await _created(call, wish)


async def _created(call: Call, wish: SessionWish) -> Reply:
    created = await call.services.sessions.create(
        call.principal, await call.owner(), wish, idempotency_of(call)
    )
    return json_reply(created_view(created, legacy=call.legacy), 201 if created.created else 200)


async def _template(call: Call) -> Template | None:
    """The parameter has to be there, but an image may stand in for it."""
    fields = Fields(call.parameters)
    template_id = fields.uuid("template_id", "templateId")
    image = fields.optional_text("image", "lang", limit=512)
    if not {"template_id", "templateId"} & call.parameters.keys():
        fields.refuse("template_id", "is required")
    elif template_id is None and image is None:
        fields.refuse("template_id", "is required without an image")
    fields.check()
    if template_id is None:
        return None
    return await call.services.templates.get(await call.owner(), TemplateKind.SESSION, template_id)


async def match(call: Call) -> Reply:
    fields = Fields(call.parameters)
    prefix = fields.text("id", required=True, limit=64)
    fields.check()
    return json_reply({"matches": await call.services.sessions.match(await call.owner(), prefix)})


async def info(call: Call) -> Reply:
    record = await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    return json_reply(info_view(record, datetime.now(UTC)))


async def restart(call: Call) -> Reply:
    await call.services.sessions.restart(await call.owner(), call.arguments["ref"])
    return NO_CONTENT


async def destroy(call: Call) -> Reply:
    fields = Fields(call.parameters)
    forced, recursive = fields.boolean("forced"), fields.boolean("recursive")
    fields.check()
    stats = await call.services.sessions.destroy(
        call.principal, await call.owner(), call.arguments["ref"], forced=forced, recursive=recursive
    )
    return json_reply({"stats": stats})


async def rename(call: Call) -> Reply:
    fields = Fields(call.parameters)
    name = fields.text("name", "clientSessionToken", required=True, pattern=NAME_PATTERN)
    fields.check()
    await call.services.sessions.rename(await call.owner(), call.arguments["ref"], name)
    return NO_CONTENT


async def apps(call: Call) -> Reply:
    record = await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    return json_reply([service_port(port) for port in record.service_ports])


def _routes(root: str, *, legacy: bool) -> tuple[Route, ...]:
    one = f"{root}/<ref>"

    def changing(method: str, path: str, handler: object, gate: Gate, *, waits: bool = False) -> Route:
        return Route(
            method=method,
            path=path,
            handler=handler,  # type: ignore[arg-type]
            gate=gate,
            changes_state=True,
            waits=waits,
            legacy=legacy,
        )

    return (
        changing("POST", root, create, Gate.ALL, waits=True),
        changing("POST", f"{root}/create" if legacy else f"{root}/_/create", create, Gate.ALL, waits=True),
        changing("POST", f"{root}/_/create-from-template", create_from_template, Gate.ALL, waits=True),
        changing("POST", f"{root}/_/create-cluster", create_cluster, Gate.ALL, waits=True),
        Route(method="GET", path=f"{root}/_/match", handler=match, gate=Gate.READ),
        Route(method="GET", path=one, handler=info, gate=Gate.READ),
        changing("PATCH", one, restart, Gate.READ),
        changing("DELETE", one, destroy, Gate.READ),
        changing("POST", f"{one}/rename", rename, Gate.ALL),
    )


ROUTES = (
    *_routes("/session", legacy=False),
    *_routes("/kernel", legacy=True),
    *_routes(f"{VERSIONED}/kernel", legacy=True),
    Route(
        method="POST",
        path=f"{VERSIONED}/kernel/",
        handler=create,
        gate=Gate.ALL,
        changes_state=True,
        waits=True,
        legacy=True,
    ),
    *(
        Route(method="GET", path=f"{root}/<ref>/apps", handler=apps, gate=Gate.READ)
        for root in ("/stream/session", "/stream/kernel", f"{VERSIONED}/stream/kernel")
    ),
)
