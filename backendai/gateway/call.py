"""One request on its way from the HTTP edge to a handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from backendai.core.account import Principal, UserRole
from backendai.core.errors import AuthFailed
from backendai.core.signing import media_type_of
from backendai.gateway.body import RequestBody
from backendai.gateway.options import HttpOptions
from backendai.gateway.parameters import read_parameters
from backendai.gateway.services import Services
from backendai.gateway.versions import ApiVersion
from backendai.gateway.yaml_body import YAML, read_yaml


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, checked and ready for its handler."""

    services: Services
    options: HttpOptions
    method: str
    path: str
    arguments: Mapping[str, str]
    headers: Mapping[str, str]
    query: bytes
    body: bytes
    version: ApiVersion
    request_id: str
    #: Whether the legacy names of things are wanted in the reply (``/kernel`` routes).
    legacy: bool = False
    #: None only on routes that need no signature.
    account: Principal | None = None
    #: The body, on routes that take it in by themselves; ``body`` is empty there.
    incoming: RequestBody | None = None
    _parameters: dict[str, Any] | None = None

    @property
    def principal(self) -> Principal:
        """Whom the request is signed by. Raises :class:`AuthFailed` if by nobody."""
        if self.account is None:
            raise AuthFailed("Unauthorized access")
        return self.account

    @property
    def parameters(self) -> dict[str, Any]:
        """What the body holds if there is one, else the query string. Raises :class:`InvalidParameters`."""
        if self._parameters is None:
            self._parameters = read_parameters(self.json_body, self.query)
        return self._parameters

    @property
    def json_body(self) -> bytes:
        """The body as JSON, also when it came as YAML. Raises :class:`InvalidParameters`."""
        if self.body.strip() and media_type_of(self.headers.get("content-type")) == YAML:
            return msgspec.json.encode(read_yaml(self.body))
        return self.body

    async def owner(self) -> Principal:
        """Whom the request acts for: ``owner_access_key`` of body or query if it names another account."""
        owner_key = self.parameters.get("owner_access_key")
        if owner_key is None and self.body and self.query:
            owner_key = read_parameters(b"", self.query).get("owner_access_key")
        if owner_key is None or owner_key == self.principal.access_key:
            return self.principal
        return await self.services.accounts.acting_as(self.principal, str(owner_key))

    def require_superadmin(self) -> Principal:
        if self.principal.role is not UserRole.SUPERADMIN:
            raise AuthFailed("Unauthorized access")
        return self.principal
