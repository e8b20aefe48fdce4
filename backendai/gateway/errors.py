"""From refusal to HTTP status, and the problem documents that clients parse (contract 01 §5.2, §5.3)."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from backendai.core import errors
from backendai.core.errors import AgentRefused, BackendError, ObjectNotFound
from backendai.gateway.reply import JSON_PROBLEM, Reply

_TYPE_PREFIX = "https://api.backend.ai/probs/"


class UrlNotFound(BackendError):
    """``data`` is the path that was asked for."""

    code = "url-not-found"
    title = "Unknown URL path."


class MethodNotAllowed(BackendError):
    code = "method-not-allowed"
    title = "HTTP Method Not Allowed."

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__()
        self.allowed = allowed


class BodyTooLarge(BackendError):
    code: ClassVar[str] = "payload-too-large"
    title: ClassVar[str] = "The request body is too large."


class BodyTooSlow(BackendError):
    code = "request-timeout"
    title = "The request body did not arrive in time."


class UnsupportedMediaType(BackendError):
    code = "unsupported-media-type"
    title = "The request body has a form that this URL does not take."


class GraphQLRefused(BackendError):
    code = "graphql-error"
    title = "GraphQL-generated error."


STATUS: dict[str, int] = {
    errors.BackendError.code: 500,
    errors.ObjectNotFound.code: 404,
    errors.OutputNotKept.code: 404,
    errors.BadRequest.code: 400,
    errors.InvalidParameters.code: 400,
    errors.InvalidAuthParameters.code: 400,
    errors.AuthFailed.code: 401,
    errors.Forbidden.code: 403,
    errors.InsufficientPrivilege.code: 403,
    errors.QuotaExceeded.code: 412,
    errors.RateLimitExceeded.code: 429,
    errors.SessionAlreadyExists.code: 400,
    errors.IdempotencyKeyReused.code: 422,
    errors.TooManySessionsMatched.code: 404,
    errors.ServiceUnavailable.code: 503,
    errors.ServerFrozen.code: 503,
    errors.NotImplementedByServer.code: 503,
    errors.NoAvailableAgent.code: 503,
    errors.InternalError.code: 500,
    errors.KernelCreationFailed.code: 500,
    errors.KernelDestructionFailed.code: 500,
    errors.KernelRestartFailed.code: 500,
    errors.KernelExecutionFailed.code: 500,
    UrlNotFound.code: 404,
    MethodNotAllowed.code: 405,
    BodyTooLarge.code: 413,
    BodyTooSlow.code: 408,
    UnsupportedMediaType.code: 415,
    GraphQLRefused.code: 400,
}


def problem(error: BackendError) -> Reply:
    """A refusal as the client gets it. A code without a status is a bug and raises KeyError."""
    title = error.full_title if isinstance(error, ObjectNotFound) else error.title
    document: dict[str, Any] = {"type": _TYPE_PREFIX + error.code, "title": title}
    if error.msg is not None:
        document["msg"] = error.msg
    if error.data is not None:
        document["data"] = error.data
    if isinstance(error, AgentRefused) and error.agent_details is not None:
        document["agent-details"] = error.agent_details
    headers: tuple[tuple[bytes, bytes], ...] = (JSON_PROBLEM,)
    if isinstance(error, MethodNotAllowed):
        headers += ((b"allow", ", ".join(error.allowed).encode()),)
    if isinstance(error, errors.RateLimitExceeded):
        headers += ((b"retry-after", b"60"),)
    return Reply(STATUS[error.code], msgspec.json.encode(document), headers)


def fault(request_id: str, traceback: str | None) -> Reply:
    """The answer to a bug: a pointer into the server's log, or in debug mode the traceback itself."""
    text = traceback or f"The log of the server tells more about request {request_id}."
    return problem(errors.InternalError(text))
