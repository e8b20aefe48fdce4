"""Plays an API by its own description: whatever is sent, the answers have to be among those described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from gateway_client import sign_headers
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from requests.auth import AuthBase
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from backendai.core.account import Principal

#: Held against every answer, but not what is refused: we read more leniently than any schema says.
load_all_checks()
_CHECKS = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)
_INTERNAL = "https://api.backend.ai/probs/internal-server-error"


class Signature(AuthBase):
    """Signs requests as they are about to be sent."""

    def __init__(self, principal: Principal, secret: str | None = None) -> None:
        self._principal = principal
        self._secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        assert request.method is not None
        assert request.url is not None
        body = request.body or b""
        for header in ("Authorization", "X-BackendAI-Version"):
            request.headers.pop(header, None)
        signed = sign_headers(
            request.method,
            request.path_url,
            request.url.split("/")[2],
            principal=self._principal,
            secret=self._secret,
            content_type=request.headers.get("Content-Type"),
            body=body.encode() if isinstance(body, str) else body,
        )
        request.headers.update(signed)
        return request


@dataclass
class Game:
    """Plays against the gateway at ``base_url`` and counts its answers."""

    base_url: str
    document: Mapping[str, Any]
    signature: Signature
    #: ``METHOD /path`` and status to how often.
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    def play(self, examples: int, *, leave_out: Callable[[str], bool]) -> None:
        """Blocks. Raises all that schemathesis found, with a request each to repeat it."""
        found: list[Exception] = []
        schema = schemathesis.openapi.from_dict(dict(self.document))
        with requests.Session() as session:
            for result in schema.get_all_operations():
                operation = result.ok()
                if leave_out(operation.label):
                    continue
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    try:
                        self._play_one(session, operation, mode, examples)
                    except Exception as error:
                        found.append(error)
        if found:
            raise ExceptionGroup(f"{len(found)} operations answer as they should not", found)

    def _play_one(
        self, session: requests.Session, operation: Any, mode: GenerationMode, examples: int
    ) -> None:
        @seed(1)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            answer = case.call(
                base_url=self.base_url,
                session=session,
                auth=self.signature,
                timeout=10,
                allow_redirects=False,
            )
            self.answers[operation.label, answer.status_code] += 1
            if answer.status_code == 500:
                assert answer.json()["type"] != _INTERNAL, case.as_curl_command()
            case.validate_response(answer, checks=_CHECKS)

        with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
            send()  # what takes no parameters cannot be asked wrongly
