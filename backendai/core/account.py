"""Who a verified request acts as."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from backendai.core.ids import AccessKey


class UserRole(StrEnum):
    SUPERADMIN = "superadmin"
    ADMIN = "admin"
    USER = "user"
    MONITOR = "monitor"


class Secret:
    """Text that never shows itself in a log, an error or a ``repr``; :meth:`reveal` is the one way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Principal:
    """An account as a request acts with it: a key pair, its user and where the user belongs."""

    access_key: AccessKey
    user_id: UUID
    email: str
    role: UserRole
    domain_name: str
    #: The flag of the key pair, not the role of the user (contract 01 §4).
    is_admin: bool
    resource_policy: str
    #: Requests allowed in a rolling window of 900 s.
    rate_limit: int

    @property
    def is_superadmin(self) -> bool:
        return self.role is UserRole.SUPERADMIN


@dataclass(frozen=True, slots=True)
class Credential:
    """What a signature is checked against."""

    principal: Principal
    secret_key: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class RateState:
    """What is left of an account's request rate (contract 01 §7)."""

    limit: int
    remaining: int
    #: Seconds.
    window: int = 900
    allowed: bool = True
    #: Seconds since the same claim was made before; None when it is new or none was asked for.
    first_seen: float | None = None
