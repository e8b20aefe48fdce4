"""Who may look up what (contract 06 §3), as pure rules over the asker."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backendai.core.account import Principal, UserRole
from backendai.core.errors import Forbidden, InsufficientPrivilege, InvalidParameters


@dataclass(frozen=True, slots=True)
class Scope:
    """What a lookup is narrowed to; None leaves it open. ``identity`` is whatever names an owner there."""

    domain: str | None
    identity: str | None


def require_superadmin(asker: Principal) -> None:
    """Raises :class:`Forbidden` for everybody else."""
    if not asker.is_superadmin:
        raise Forbidden("superadmin privilege required")


def owner_scope(asker: Principal, *, domain: str | None, identity: str | None, own: str) -> Scope:
    """Superadmins see all, domain admins their domain, users themselves.

    ``own`` is the asker's identity in the terms of ``identity``: access key, e-mail or user id. Asking for
    what is outside raises :class:`Forbidden`, it is never silently narrowed.
    """
    match asker.role:
        case UserRole.SUPERADMIN:
            return Scope(domain, identity)
        case UserRole.ADMIN:
            return Scope(_own_domain(asker, domain), identity)
        case UserRole.USER:
            if identity is not None and identity != own:
                raise Forbidden
            return Scope(_own_domain(asker, domain), own)
    raise unknown_role()


def domain_scope(asker: Principal, domain: str | None) -> str | None:
    """The domain that a list of accounts is narrowed to; users may not list accounts at all."""
    match asker.role:
        case UserRole.SUPERADMIN:
            return domain
        case UserRole.ADMIN:
            return _own_domain(asker, domain)
        case UserRole.USER:
            raise InsufficientPrivilege
    raise unknown_role()


def unknown_role() -> InvalidParameters:
    return InvalidParameters("Unknown client role")


def uuid_text(text: str) -> str:
    """A UUID given as plain text, in its canonical form. Raises :class:`InvalidParameters`."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidParameters("badly formed hexadecimal UUID string") from error


def _own_domain(asker: Principal, domain: str | None) -> str:
    if domain is not None and domain != asker.domain_name:
        raise Forbidden
    return asker.domain_name
