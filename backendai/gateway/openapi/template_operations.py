"""Templates of sessions and clusters, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta

from backendai.core.errors import QuotaExceeded
from backendai.core.session import SessionType
from backendai.gateway.openapi.operation import Either, Operation, about_session
from backendai.gateway.openapi.session_operations import CREATION_REFUSALS
from backendai.gateway.openapi.shapes import Image, Name, SessionCreated, SessionOptions, Succeeded, Text

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


class CreateFromTemplate(SessionOptions):
    template_id: Annotated[UUID | None, Meta(description="Null with an image")]
    name: NotRequired[Name]
    image: NotRequired[Image]


class CreateCluster(TypedDict):
    template_id: UUID
    clientSessionToken: NotRequired[Name]
    type: NotRequired[SessionType]
    group: NotRequired[Text]
    domain: NotRequired[Text]
    scaling_group: NotRequired[Text]
    tag: NotRequired[Annotated[str, Meta(max_length=64)]]
    enqueueOnly: NotRequired[bool]
    maxWaitSeconds: NotRequired[Annotated[int, Meta(ge=0, le=2**31)]]


class ClusterCreated(SessionCreated):
    kernelId: Annotated[str, Meta(description="The name")]


_template = partial(Operation, tag="templates", for_others=True)


def _operations(root: str, what: str) -> dict[str, Operation]:
    one = f"{root}/{{template_id}}"
    return {
        f"POST {root}": _template(
            summary=f"Keep a template of {what}",
            about="Everybody in the project can use it. The reply is a list for clients since 23.03.",
            body=TemplateWish,
            replies={200: Either((TemplateMade, list[TemplateMade]))},
            refusals=(QuotaExceeded,),
        ),
        f"GET {root}": _template(
            summary=f"Templates of {what}",
            about="Of the requester and the requester's projects, the newest first.",
            query=TemplatesWish,
            replies={200: list[TemplateItem]},
        ),
        f"GET {one}": _template(
            summary=f"A template of {what}",
            about="Session templates for versions before v6.20220315: the document, as YAML or JSON.",
            query=FormWish,
            replies={200: TemplateShown},
        ),
        f"PUT {one}": _template(
            summary=f"Replace a template of {what}",
            about="It moves to another project if one is named.",
            body=TemplateWish,
            replies={200: Succeeded},
            refusals=(QuotaExceeded,),
        ),
        f"DELETE {one}": _template(
            summary=f"Remove a template of {what}",
            replies={200: Succeeded},
        ),
    }


TEMPLATES: Mapping[str, Operation] = {
    **_operations("/template/session", "sessions"),
    **_operations("/template/cluster", "clusters"),
    "POST /session/_/create-from-template": about_session(
        summary="Make a session from a template",
        about=(
            "What is left out is as the template has it. Folders count together: with `mounts` or "
            "`mount_map`, none of the template's are mounted. Its repository is cloned after the bootstrap "
            "script."
        ),
        body=CreateFromTemplate,
        replies={201: SessionCreated, 200: SessionCreated},
        refusals=CREATION_REFUSALS,
        repeatable=True,
    ),
    "POST /session/_/create-cluster": about_session(
        summary="Make a cluster session from a template",
        about="The session templates of its nodes may differ in resources. No live session is used again.",
        body=CreateCluster,
        replies={201: ClusterCreated},
        refusals=CREATION_REFUSALS,
        repeatable=True,
    ),
}
