"""The refusals a caller can expect, each with a stable code.

A :class:`BackendError` is an answer, not a fault: it carries a code, a title and optional text and data, and
knows nothing of HTTP; ``gateway/errors.py`` holds the one table from code to status. The codes and titles are
those of contract 01 §5.3, clients match on them. Anything else that is raised is a bug and travels up to the
nursery that owns the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class BackendError(Exception):
    """An expected refusal.

    ``msg`` is for the person, ``data`` for the program (JSON-able). Neither may hold a secret: both reach the
    client and the log.
    """

    code: ClassVar[str] = "general-error"
    title: ClassVar[str] = "General Backend API Error."

    def __init__(self, msg: str | None = None, *, data: Any = None) -> None:
        super().__init__(msg or self.title)
        self.msg = msg
        self.data = data


class ObjectNotFound(BackendError):
    """``object_name`` says what was not found, in the words of the contract ("session", "domain", ...)."""

    code = "object-not-found"
    title = "No such object."

    def __init__(self, object_name: str = "object", msg: str | None = None, *, data: Any = None) -> None:
        super().__init__(msg, data=data)
        self.object_name = object_name

    @property
    def full_title(self) -> str:
        return f"No such {self.object_name}."


class OutputNotKept(BackendError):
    """``data.reason`` is ``expired`` or ``lost``, ``data.retention`` how long output is kept, in seconds."""

    code = "output-not-kept"
    title = "What was printed is not kept any more."


class BadRequest(BackendError):
    code = "generic-bad-request"
    title = "Bad request."


class DotfileNotMade(BadRequest):
    title = "Dotfile creation has failed."


class DotfileTaken(BadRequest):
    title = "Dotfile already exists."


class InvalidParameters(BackendError):
    """``data`` maps each offending field to what was expected of it."""

    code = "invalid-api-params"
    title = "Missing or invalid API parameters."

    @classmethod
    def of(cls, problems: Mapping[str, Any]) -> InvalidParameters:
        return cls("Input validation error", data=dict(problems))


class InvalidAuthParameters(BackendError):
    code = "invalid-auth-params"
    title = "Missing or invalid authorization parameters."


class AuthFailed(BackendError):
    code = "auth-failed"
    title = "Credential/signature mismatch."


class Forbidden(BackendError):
    code = "generic-forbidden"
    title = "Forbidden operation."


class InsufficientPrivilege(BackendError):
    code = "insufficient-privilege"
    title = "Insufficient privilege."


class QuotaExceeded(BackendError):
    code = "quota-exceeded"
    title = "You have reached your resource limit."


class RateLimitExceeded(BackendError):
    code = "rate-limit-exceeded"
    title = "You have reached your API query rate limit."


class SessionAlreadyExists(BackendError):
    """``data`` always holds ``existingSessionId``; clients read it unconditionally."""

    code = "session-already-exists"
    title = "The session already exists but you requested not to reuse existing one."


class IdempotencyKeyReused(BackendError):
    code = "idempotency-key-reused"
    title = "The idempotency key belongs to another request."


class TooManySessionsMatched(BackendError):
    """``data.matches`` lists up to ten candidates ``{id, name, status, created_at}``."""

    code = "too-many-sessions-matched"
    title = "Too many sessions matched."


class ServiceUnavailable(BackendError):
    code = "service-unavailable"
    title = "Serivce unavailable."  # the misspelling is part of the protocol


class ServerFrozen(BackendError):
    code = "server-frozen"
    title = "The server is frozen due to maintenance. Please try again later."


class NotImplementedByServer(BackendError):
    code = "not-implemented"
    title = "This API query is not implemented."


class NoAvailableAgent(BackendError):
    code = "instance-not-available"
    title = "There is no available instance."


class InternalError(BackendError):
    code = "internal-server-error"
    title = "Internal server error."


class AgentRefused(BackendError):
    """An operation that an agent had to do and could not.

    ``agent_details`` becomes the ``agent-details`` member of the error body: ``{type, title, exception?}``.
    """

    def __init__(
        self, msg: str | None = None, *, agent_details: Mapping[str, Any] | None = None, data: Any = None
    ) -> None:
        super().__init__(msg, data=data)
        self.agent_details = agent_details


class KernelCreationFailed(AgentRefused):
    code = "kernel-creation-failed"
    title = "Kernel creation has failed."


class KernelDestructionFailed(AgentRefused):
    code = "kernel-destruction-failed"
    title = "Kernel destruction has failed."


class KernelRestartFailed(AgentRefused):
    code = "kernel-restart-failed"
    title = "Kernel restart has failed."


class KernelExecutionFailed(AgentRefused):
    code = "kernel-execution-failed"
    title = "Executing user code in the kernel has failed."
