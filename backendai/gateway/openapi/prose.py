"""The parts of the OpenAPI document that are no route's own."""

from __future__ import annotations

from typing import Any

from backendai.core.signing import BODY_UNSIGNED_SINCE, CLOCK_TOLERANCE

INTRODUCTION = """\
Compute sessions behind the API that Backend.AI clients speak. Server {version}.

**Parameters** are read from the body if there is one, whatever its method and content type, else from the
query string. A body is JSON, or YAML of which every scalar is a string (`text/yaml`, no anchors or aliases).
Unknown names are ignored; booleans and numbers may be strings.

**Versions.** `X-BackendAI-Version` says which version a request is written in. Older clients put its major in
front of the path (`/v3/kernel/...`) and know some operations by other paths. Those are not described again:
each operation lists them in `x-other-paths`.

**Refusals** are `application/problem+json`. The end of `type` is a code to act upon; `msg` is for people.

**Methods.** What answers GET answers HEAD. `X-Method-Override` replaces the method. OPTIONS answers CORS
preflights.
"""

TAGS = {
    "installation": "The installation itself",
    "sessions": "Making, finding and ending sessions",
    "templates": "What sessions can be made from",
    "dotfiles": "What is in every session from the start",
    "runs": "Running code in sessions",
    "files": "Files in sessions",
    "streams": "Events, terminals and tunnels",
    "graphql": "Looking things up, and administration",
}

SIGNATURE: dict[str, Any] = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": (
        "`BackendAI signMethod=HMAC-SHA256, credential=ACCESS_KEY:SIGNATURE`: the signature is the HMAC "
        "in hexadecimal digits of these lines: method, path with query string, date, `host:` and the Host "
        "header, `content-type:` and the media type (`application/octet-stream` if none is sent), "
        "`x-backendai-version:` and that header, and the hash of an empty text (of the body for versions "
        f"before {BODY_UNSIGNED_SINCE}). Its key is HMAC(HMAC(secret key, day as YYYYMMDD), Host). The date "
        "is that of the header Date or X-BackendAI-Date in ISO 8601, and may be off by less than "
        f"{CLOCK_TOLERANCE.seconds // 60} minutes. A signature is good for one request that changes anything."
    ),
}

HEAD_TOO_LARGE = {"description": "Path and headers are larger than 32 KiB. This answer has no body."}

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}
HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "Names the request in the server's log",
        "required": True,
        "schema": _TEXT,
    },
    "X-RateLimit-Limit": {"description": "Requests per window", "schema": _NUMBER},
    "X-RateLimit-Remaining": {"description": "Of those, how many are left", "schema": _NUMBER},
    "X-RateLimit-Window": {"description": "Length of the window in seconds", "schema": _NUMBER},
    "Retry-After": {"description": "Seconds to wait", "schema": _NUMBER},
}
ALWAYS = ("X-Request-ID",)
ON_SUCCESS = (*ALWAYS, "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Window")

PARAMETERS: dict[str, Any] = {
    "owner": {
        "name": "owner_access_key",
        "in": "query",
        "required": False,
        "description": "Act for another account. Admins may, within their domain; superadmins anywhere.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64},
    },
    "idempotency": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A request with the key of an earlier one does nothing new and gets its answer",
        "schema": {"type": "string", "pattern": r"^[\x21-\x7e]{1,255}$"},
    },
    "version": {
        "name": "X-BackendAI-Version",
        "in": "header",
        "required": True,
        "description": "The version that the request is written in",
        "schema": {"type": "string", "pattern": r"^v[1-9]\.[0-9]{8}$"},
    },
}

#: Arguments in paths, by name.
ARGUMENTS: dict[str, Any] = {
    "ref": {
        "description": "Name or id of a session, or the beginning of one",
        "schema": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    },
    "template_id": {
        "description": "The id of a template",
        "schema": {"type": "string", "format": "uuid"},
    },
    "run_id": {
        "description": "The id of a run",
        "schema": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"},
    },
}


def references(*headers: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
