"""What HTTP requests and WebSockets have in common on their way between ASGI and a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from traceback import format_exception
from typing import Any, TypeVar

import structlog

from backendai.core.errors import BackendError
from backendai.gateway.body import ClientGone
from backendai.gateway.edge import UNMATCHED, Edge, Request
from backendai.gateway.errors import fault, problem
from backendai.gateway.logs import current_request
from backendai.gateway.reply import Reply
from backendai.supervision.containment import Containment

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Refusals that an operator may want to see; the others are between the client and its documentation.
_WORTH_A_LINE = frozenset({401, 403, 429, 500, 503})


class Exchange:
    """One request or connection. Quart makes one for each, of the class that the application names."""

    __slots__ = ("_edge", "_label", "_request", "_scope")

    def __init__(self, app: Any, scope: Any) -> None:
        self._edge: Edge = app.edge
        self._scope = scope
        #: The route, in metrics and log.
        self._label = UNMATCHED
        self._request = Request(scope)
        current_request.set(self._request.request_id)

    async def _guarded(self, step: Callable[[], Awaitable[T]]) -> T | Reply:
        """Turn what a step raises into an answer. A bug ends here: client and log must both hear of it.

        Raises :class:`ClientGone`: there is nobody to answer.
        """
        with Containment(self._report, "request failed", passing=(ClientGone,)) as contained:
            try:
                return await step()
            except BackendError as error:
                reply = problem(error)
                if reply.status in _WORTH_A_LINE:
                    log.info("refused", code=error.code, msg=error.msg, route=self._label)
                return reply
        shown = contained.error if self._edge.options.debug else None
        return fault(self._request.request_id, "".join(format_exception(shown)) if shown else None)

    def _report(self, event: str, **what: Any) -> None:
        log.error(event, method=self._request.method, route=self._label, **what)
