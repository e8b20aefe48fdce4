"""The OpenAPI 3.1 document, made from the routes themselves and from what ``operations`` says about them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

import backendai
from backendai.core import errors
from backendai.core.errors import BackendError
from backendai.gateway.errors import STATUS, BodyTooLarge, BodyTooSlow, UnsupportedMediaType, UrlNotFound
from backendai.gateway.openapi import prose, shapes
from backendai.gateway.openapi.operation import Answer, Either, Media, Operation, Upgrade
from backendai.gateway.openapi.operations import OPERATIONS
from backendai.gateway.route import Checks, Route, SocketRoute
from backendai.gateway.versions import ANNOUNCED_VERSION

_ARGUMENT = re.compile(r"<(?:[^<>:]*:)?(\w+)>")
_REFERENCE = "#/components/schemas/{name}"
#: What any request may meet.
_ALWAYS = (errors.BadRequest, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, errors.InternalError)
_SIGNED = (
    errors.InvalidAuthParameters,
    errors.InvalidParameters,
    errors.AuthFailed,
    errors.RateLimitExceeded,
    errors.ServiceUnavailable,
)
_GATED = (errors.ServerFrozen, errors.ServiceUnavailable)
_ONE_SESSION = (UrlNotFound, errors.ObjectNotFound, errors.TooManySessionsMatched)


def gaps(routes: Sequence[Route], sockets: Sequence[SocketRoute]) -> list[str]:
    """What keeps the document from being complete, and where it is to be mended; empty when it is."""
    every = _every(routes, sockets)
    found = _other_paths(every)
    named = {*found, *(f"{key.partition(' ')[0]} {path}" for key, paths in found.items() for path in paths)}
    return [
        *(
            f"{key}: describe it in OPERATIONS of backendai/gateway/openapi"
            for key, _ in every
            if key not in named
        ),
        *(
            f"{key}: described in backendai/gateway/openapi, but there is no such route"
            for key in OPERATIONS
            if key not in found
        ),
    ]


def describe(routes: Sequence[Route], sockets: Sequence[SocketRoute]) -> dict[str, Any]:
    """The document. Routes that :func:`gaps` complains of are not in it."""
    every = _every(routes, sockets)
    others = _other_paths(every)
    shaped = _Schemas(OPERATIONS[key] for key, _ in every if key in OPERATIONS)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, route in every:
        if key in OPERATIONS:
            method, _, path = key.partition(" ")
            entry = _entry(route, path, OPERATIONS[key], shaped)
            if others[key]:
                entry["x-other-paths"] = others[key]
            paths[path][method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Backend.AI API",
            "version": ANNOUNCED_VERSION,
            "description": prose.INTRODUCTION.format(version=backendai.__version__),
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in prose.TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": shaped.components,
            "securitySchemes": {"signature": prose.SIGNATURE},
            "headers": prose.HEADERS,
            "parameters": prose.PARAMETERS,
        },
    }


def path_of(rule: str) -> str:
    """A werkzeug rule as OpenAPI writes paths."""
    return _ARGUMENT.sub(r"{\1}", rule)


def _every(routes: Sequence[Route], sockets: Sequence[SocketRoute]) -> list[tuple[str, Route | SocketRoute]]:
    """All routes by method and path. OpenAPI knows nothing of WebSockets; their handshake is a GET."""
    return [
        *((f"{route.method} {path_of(route.path)}", route) for route in routes),
        *((f"GET {path_of(socket.path)}", socket) for socket in sockets),
    ]


def _other_paths(every: Sequence[tuple[str, Route | SocketRoute]]) -> dict[str, list[str]]:
    """Described operation to the paths that do the same. Older clients know some by other names."""
    found: dict[str, list[str]] = {}
    by_handler: dict[tuple[str, object], str] = {}
    for key, route in every:
        if key in OPERATIONS:
            found[key] = []
            by_handler.setdefault(_doing(key, route), key)
    for key, route in every:
        same = by_handler.get(_doing(key, route))
        if key not in OPERATIONS and same is not None:
            found[same].append(key.partition(" ")[2])
    return found


def _doing(key: str, route: Route | SocketRoute) -> tuple[str, object]:
    """What a route does: its method, its handler, and what the last part of a socket's path tells that."""
    handler: Any = route.handler
    parts = (handler.func, *handler.keywords.items()) if hasattr(handler, "func") else (handler,)
    kind = route.path.rpartition("/")[2] if isinstance(route, SocketRoute) else ""
    return f"{key.partition(' ')[0]} {kind}", parts


class _Schemas:
    """JSON schemas of the types that operations name."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: list[Any] = [shapes.Problem]
        for operation in operations:
            for answer in (operation.query, operation.body, *operation.replies.values()):
                types += _shapes_of(answer)
        made, self.components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        self._made = dict(zip(map(repr, types), made, strict=True))
        self.components = {name: self.components[name] for name in sorted(self.components)}

    def __call__(self, shape: Answer) -> dict[str, Any]:
        if isinstance(shape, Either):
            return {"anyOf": [self._made[repr(each)] for each in shape.shapes]}
        return self._made[repr(shape)]

    def properties(self, shape: Any) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Properties and required names of an object."""
        schema = self.components[self(shape)["$ref"].rpartition("/")[2]]
        return schema["properties"], schema.get("required", ())


def _shapes_of(answer: Answer) -> tuple[Any, ...]:
    if isinstance(answer, Either):
        return answer.shapes
    return () if answer is None or isinstance(answer, Media | Upgrade) else (answer,)


def _entry(route: Checks, path: str, operation: Operation, shaped: _Schemas) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _operation_id(route, path),
        "tags": [operation.tag],
        "security": [{"signature": []}] if route.signed else [],
        "parameters": list(_parameters(route, path, operation, shaped)),
    }
    if operation.about:
        entry["description"] = operation.about
    if operation.body is not None:
        entry["requestBody"] = {"required": True, "content": _content(operation.body, shaped, yaml=True)}
    responses = {str(status): _reply(status, answer, shaped) for status, answer in operation.replies.items()}
    for status, refused in _refusals(route, path, operation).items():
        responses[status] = _merged(responses.get(status), _refusal(status, refused, shaped))
    responses["431"] = prose.HEAD_TOO_LARGE
    entry["responses"] = dict(sorted(responses.items()))
    return entry


def _operation_id(route: Checks, path: str) -> str:
    method = route.method.lower() if isinstance(route, Route) else "connect"
    return "_".join((method, *re.findall(r"\w+", path)))


def _parameters(
    route: Checks, path: str, operation: Operation, shaped: _Schemas
) -> Iterable[Mapping[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, **prose.ARGUMENTS[name]}
    if operation.query is not None:
        properties, required = shaped.properties(operation.query)
        for name, schema in properties.items():
            yield {"name": name, "in": "query", "required": name in required, "schema": schema}
    if operation.for_others:
        yield {"$ref": "#/components/parameters/owner"}
    if operation.repeatable:
        yield {"$ref": "#/components/parameters/idempotency"}
    if route.signed:
        yield {"$ref": "#/components/parameters/version"}


def _content(answer: Answer, shaped: _Schemas, *, yaml: bool = False) -> dict[str, Any]:
    if isinstance(answer, Media):
        kind = "object" if answer.media_type.startswith("multipart/form") else "string"
        any_json = answer.media_type == "application/json"
        schema = {"description": answer.about} | ({} if any_json else {"type": kind})
        return {answer.media_type: {"schema": schema}}
    forms = ("application/json", "text/yaml") if yaml else ("application/json",)
    return {form: {"schema": shaped(answer)} for form in forms}


def _reply(status: int, answer: Answer, shaped: _Schemas) -> dict[str, Any]:
    if isinstance(answer, Upgrade):
        return {"description": f"A WebSocket. {answer.about}"}
    reply: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": prose.references(*prose.ON_SUCCESS),
    }
    if answer is not None:
        reply["content"] = _content(answer, shaped)
    return reply


def _refusals(route: Checks, path: str, operation: Operation) -> dict[str, list[type[BackendError]]]:
    """Status to what may be refused with it."""
    possible: dict[type[BackendError], None] = dict.fromkeys((*_ALWAYS, *operation.refusals))
    conditions: tuple[tuple[bool, tuple[type[BackendError], ...]], ...] = (
        (route.signed, _SIGNED),
        (route.gate is not None, _GATED),
        ("{" in path, _ONE_SESSION),
        (operation.for_others, (errors.Forbidden,)),
        (operation.repeatable, (errors.IdempotencyKeyReused,)),
        (operation.body is not None or operation.query is not None, (errors.InvalidParameters,)),
    )
    for applies, more in conditions:
        if applies:
            possible.update(dict.fromkeys(more))
    found: dict[str, list[type[BackendError]]] = defaultdict(list)
    for each in possible:
        found[str(STATUS[each.code])].append(each)
    return found


def _refusal(status: str, refused: Sequence[type[BackendError]], shaped: _Schemas) -> dict[str, Any]:
    headers = [*prose.ALWAYS, "Retry-After"] if status == "429" else prose.ALWAYS
    return {
        "description": "\n".join(f"- `{each.code}`: {each.title}" for each in refused),
        "headers": prose.references(*headers),
        "content": {"application/problem+json": {"schema": shaped(shapes.Problem)}},
    }


def _merged(reply: dict[str, Any] | None, refusal: dict[str, Any]) -> dict[str, Any]:
    """One status may be an answer and a refusal, by its content type."""
    if reply is None:
        return refusal
    return {
        "description": f"{reply['description']}\n{refusal['description']}",
        "headers": refusal["headers"],
        "content": reply["content"] | refusal["content"],
    }


def document_of(
    routes: Callable[[], tuple[Sequence[Route], Sequence[SocketRoute]]],
) -> Callable[[], bytes]:
    """The encoded document, made when it is first asked for and kept."""
    made: list[bytes] = []

    def document() -> bytes:
        if not made:
            made.append(msgspec.json.encode(describe(*routes())))
        return made[0]

    return document
