"""What every route means: the part of the OpenAPI document that is written by hand.

A route whose method and path are not here has to share its handler with one that is here, or
``tests/gateway/test_openapi.py`` fails and names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backendai.core.errors import Forbidden, NotImplementedByServer, ObjectNotFound
from backendai.gateway.errors import GraphQLRefused
from backendai.gateway.openapi import shapes
from backendai.gateway.openapi.dotfile_operations import DOTFILES
from backendai.gateway.openapi.insight_operations import INSIGHT
from backendai.gateway.openapi.operation import Media, Operation
from backendai.gateway.openapi.session_operations import SESSIONS
from backendai.gateway.openapi.stream_operations import STREAMS
from backendai.gateway.openapi.template_operations import TEMPLATES

_INSTALLATION: Mapping[str, Operation] = {
    "GET /": Operation(
        summary="Which API versions are spoken",
        about="Clients take the lower one of this version and their own.",
        tag="installation",
        replies={200: shapes.Hello},
    ),
    "GET /healthz": Operation(
        summary="Does the process answer",
        about="Says nothing of what it depends on.",
        tag="installation",
        replies={200: shapes.Alive},
    ),
    "GET /readyz": Operation(
        summary="Can requests be served",
        about="503 when something is missing that no request could do without.",
        tag="installation",
        replies={200: shapes.Readiness, 503: shapes.Readiness},
    ),
    "GET /metrics": Operation(
        summary="Measurements",
        tag="installation",
        replies={200: Media("text/plain", "In the text format of Prometheus")},
    ),
    "GET /openapi.json": Operation(
        summary="This document",
        tag="installation",
        replies={200: Media("application/json", "An OpenAPI 3.1 document")},
    ),
    "GET /auth": Operation(
        summary="Try a signature", tag="installation", query=shapes.EchoWish, replies={200: shapes.Echo}
    ),
    "POST /auth": Operation(
        summary="Try a signature", tag="installation", body=shapes.EchoWish, replies={200: shapes.Echo}
    ),
    "GET /auth/role": Operation(
        summary="What the requester may do",
        tag="installation",
        query=shapes.RoleWish,
        replies={200: shapes.Role},
        refusals=(ObjectNotFound,),
    ),
    "GET /manager/status": Operation(
        summary="State of the installation", tag="installation", replies={200: shapes.ManagerState}
    ),
    "PUT /manager/status": Operation(
        summary="Freeze the installation, or let it run",
        about="Only superadmins. While frozen, no session is made or renamed.",
        tag="installation",
        body=shapes.StatusChange,
        replies={204: None},
    ),
    "GET /manager/announcement": Operation(
        summary="The word of the day", tag="installation", replies={200: shapes.Announcement}
    ),
    "POST /manager/announcement": Operation(
        summary="Set the word of the day",
        about="Only superadmins.",
        tag="installation",
        body=shapes.AnnouncementChange,
        replies={204: None},
    ),
    "POST /agent/enroll": Operation(
        summary="Let an agent on another host be trusted",
        about="With a one-time token instead of a signature.",
        tag="installation",
        body=shapes.Enrollment,
        replies={200: dict[str, str]},
        refusals=(NotImplementedByServer, Forbidden),
    ),
    "POST /admin/gql": Operation(
        summary="Query and change with GraphQL",
        about="The schema can be asked for by introspection. Errors of the query are part of the reply.",
        tag="graphql",
        body=shapes.GraphQLRequest,
        replies={200: shapes.GraphQLReply},
    ),
    "POST /admin/graphql": Operation(
        summary="GraphQL for older clients",
        about="The reply is what is under `data` otherwise; errors are a refusal.",
        tag="graphql",
        body=shapes.GraphQLRequest,
        replies={200: dict[str, Any]},
        refusals=(GraphQLRefused,),
    ),
}

#: By ``METHOD /path/{argument}``; WebSockets by ``GET``.
OPERATIONS: Mapping[str, Operation] = {
    **_INSTALLATION,
    **SESSIONS,
    **INSIGHT,
    **TEMPLATES,
    **DOTFILES,
    **STREAMS,
}
