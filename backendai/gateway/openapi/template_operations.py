"""Templates of sessions and clusters, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta

from backendai.core.errors import Forbidden, QuotaExceeded
from backendai.gateway.openapi.operation import Either, Operation
from backendai.gateway.openapi.shapes import Succeeded, Text

Payload = Annotated[str, Meta(description="The document in JSON or YAML", min_length=1, max_length=65536)]


class TemplateWish(TypedDict):
    payload: Payload
    group: NotRequired[Text]
    domain: NotRequired[Text]


class TemplateMade(TypedDict):
    id: Annotated[str, Meta(description="A UUID without dashes")]
    user: str


class TemplatesWish(TypedDict, total=False):
    all: Annotated[bool, Meta(description="Everybody's; for superadmins")]
    group_id: UUID


class TemplateItem(TypedDict):
    """``template`` and ``domain_name`` for versions since v6.20220315."""

    name: str
    id: str
    created_at: str
    is_owner: bool
    user: UUID
    group: UUID | None
    user_email: str
    group_name: str | None
    type: Literal["task", "user", "group"]
    domain_name: NotRequired[str]
    template: NotRequired[dict[str, Any]]


class FormWish(TypedDict, total=False):
    format: Annotated[Literal["yaml", "json"], Meta(description="For versions before v6.20220315")]


class TemplateShown(TypedDict):
    template: dict[str, Any]
    name: str
    user_uuid: UUID
    group_id: UUID | None
    domain_name: str


_template = partial(Operation, tag="templates", for_others=True)


def _operations(root: str, what: str) -> Iterator[tuple[str, Operation]]:
    one = f"{root}/{{template_id}}"
    yield (
        f"POST {root}",
        _template(
            summary=f"Keep a template of {what}",
            about="Everybody in the project can use it. The reply is a list for clients since 23.03.",
            body=TemplateWish,
            replies={200: Either((TemplateMade, list[TemplateMade]))},
            refusals=(Forbidden, QuotaExceeded),
        ),
    )
    yield (
        f"GET {root}",
        _template(
            summary=f"Templates of {what}",
            about="Of the requester and the requester's projects, the newest first.",
            query=TemplatesWish,
            replies={200: list[TemplateItem]},
        ),
    )
    yield (
        f"GET {one}",
        _template(
            summary=f"A template of {what}",
            about="Session templates for versions before v6.20220315: the document, as YAML or JSON.",
            query=FormWish,
            replies={200: TemplateShown},
        ),
    )
    yield (
        f"PUT {one}",
        _template(
            summary=f"Replace a template of {what}",
            about="It moves to another project if one is named.",
            body=TemplateWish,
            replies={200: Succeeded},
            refusals=(QuotaExceeded,),
        ),
    )
    yield (
        f"DELETE {one}",
        _template(
            summary=f"Remove a template of {what}",
            replies={200: Succeeded},
        ),
    )


TEMPLATES: Mapping[str, Operation] = dict(
    (
        *_operations("/template/session", "sessions"),
        *_operations("/template/cluster", "clusters"),
    )
)
