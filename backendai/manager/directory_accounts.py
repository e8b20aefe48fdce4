"""Looking up users, key pairs, resource policies, domains and projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from backendai.core.account import Principal, UserRole
from backendai.core.errors import Forbidden, InsufficientPrivilege, ObjectNotFound
from backendai.core.query import Selection
from backendai.manager.directory_records import Kind, Paging, RecordReader, Related
from backendai.manager.directory_scope import (
    domain_scope,
    owner_scope,
    require_superadmin,
    unknown_role,
    uuid_text,
)
from backendai.manager.directory_sessions import SESSION, with_status
from backendai.storage.listing import Record
from backendai.storage.listing_accounts import (
    DOMAINS,
    KEYPAIRS,
    KEYPAIRS_WITHOUT_SUPERIORS,
    POLICIES,
    PROJECTS,
    USERS,
)
from backendai.storage.listing_sessions import SESSIONS_OF_KEYPAIR

#: What the unpaged lists of accounts are capped at, as clients know them.
_UNPAGED_ACCOUNTS = 100

USER = Kind(USERS)
_of_keypair = {"compute_sessions": Related(SESSION, SESSIONS_OF_KEYPAIR, conditions=with_status)}
KEYPAIR = Kind(KEYPAIRS, relations=_of_keypair)
#: As domain admins see them: a superadmin's secret key would give them his rights, so it is null.
KEYPAIR_WITHOUT_SUPERIORS = Kind(KEYPAIRS_WITHOUT_SUPERIORS, relations=_of_keypair)
POLICY = Kind(POLICIES)
DOMAIN = Kind(DOMAINS)
PROJECT = Kind(PROJECTS)


class AccountDirectory:
    """Methods are named like the root fields that ask them; ``wanted`` is what is selected of the answer."""

    def __init__(self, records: RecordReader) -> None:
        self._records = records

    # -- users -----------------------------------------------------------------------------------------------

    async def user(
        self, asker: Principal, wanted: Selection, *, domain_name: str | None = None, email: str | None = None
    ) -> Record | None:
        """The asker when no e-mail is given."""
        scope = owner_scope(asker, domain=domain_name, identity=email, own=asker.email)
        where = {"domain": scope.domain, "email": scope.identity or asker.email}
        return await self._records.one(USER, wanted, where)

    async def user_from_uuid(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        user_id: str | None = None,
    ) -> Record | None:
        """The asker when no id is given."""
        own = str(asker.user_id)
        identity = uuid_text(user_id) if user_id is not None else None
        scope = owner_scope(asker, domain=domain_name, identity=identity, own=own)
        return await self._records.one(USER, wanted, {"domain": scope.domain, "id": scope.identity or own})

    async def users(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        group_id: str | None = None,
        is_active: bool | None = None,
        status: str | None = None,
    ) -> list[Record]:
        where = _users(asker, domain_name, group_id, is_active, status)
        return await self._records.array(USER, wanted, where, limit=_UNPAGED_ACCOUNTS)

    async def user_list(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        group_id: str | None = None,
        is_active: bool | None = None,
        status: str | None = None,
        **paging: Unpack[Paging],
    ) -> Record:
        where = _users(asker, domain_name, group_id, is_active, status)
        return await self._records.page(USER, wanted, where, paging)

    # -- key pairs -------------------------------------------------------------------------------------------

    async def keypair(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        access_key: str | None = None,
    ) -> Record | None:
        """The asker's own when no access key is given."""
        scope = owner_scope(asker, domain=domain_name, identity=access_key, own=asker.access_key)
        where = {"domain": scope.domain, "access_key": scope.identity or asker.access_key}
        return await self._records.one(_keypair_kind(asker), wanted, where)

    async def keypairs(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        email: str | None = None,
        is_active: bool | None = None,
    ) -> list[Record]:
        where = _keypairs(asker, domain_name, email, is_active)
        return await self._records.array(_keypair_kind(asker), wanted, where, limit=_UNPAGED_ACCOUNTS)

    async def keypair_list(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        email: str | None = None,
        is_active: bool | None = None,
        **paging: Unpack[Paging],
    ) -> Record:
        where = _keypairs(asker, domain_name, email, is_active)
        return await self._records.page(_keypair_kind(asker), wanted, where, paging)

    async def keypair_resource_policy(
        self, asker: Principal, wanted: Selection, *, name: str | None = None
    ) -> Record | None:
        """The policy of the asker's own key pair when no name is given."""
        return await self._records.one(POLICY, wanted, {"name": name or asker.resource_policy})

    async def keypair_resource_policies(self, asker: Principal, wanted: Selection) -> list[Record]:
        match asker.role:
            case UserRole.SUPERADMIN | UserRole.ADMIN:
                where = {}
            case UserRole.USER:
                where = {"user": asker.user_id}
            case _:
                raise unknown_role()
        return await self._records.array(POLICY, wanted, where)

    # -- domains and projects --------------------------------------------------------------------------------

    async def domain(self, asker: Principal, wanted: Selection, *, name: str | None = None) -> Record | None:
        if name is not None and name != asker.domain_name and not asker.is_superadmin:
            raise ObjectNotFound("domain")
        return await self._records.one(DOMAIN, wanted, {"name": name or asker.domain_name})

    async def domains(
        self, asker: Principal, wanted: Selection, *, is_active: bool | None = None
    ) -> list[Record]:
        require_superadmin(asker)
        return await self._records.array(DOMAIN, wanted, {"active": is_active})

    async def group(
        self, asker: Principal, wanted: Selection, *, id: str, domain_name: str | None = None
    ) -> Record | None:
        """Users may only see projects they belong to, others raise :class:`InsufficientPrivilege`."""
        where = {**_projects(asker, domain_name), "id": id}
        found = await self._records.one(PROJECT, wanted, where)
        if found is None and asker.role is UserRole.USER:
            raise InsufficientPrivilege
        return found

    async def groups_by_name(
        self, asker: Principal, wanted: Selection, *, name: str, domain_name: str | None = None
    ) -> list[Record]:
        where = {**_projects(asker, domain_name), "name": name}
        return await self._records.array(PROJECT, wanted, where)

    async def groups(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        is_active: bool | None = None,
    ) -> list[Record]:
        """Of users always all their own projects, whatever the arguments say."""
        if asker.role is UserRole.USER:
            return await self._records.array(PROJECT, wanted, _projects(asker, None))
        where = {**_projects(asker, domain_name), "active": is_active}
        return await self._records.array(PROJECT, wanted, where)


def _users(
    asker: Principal, domain: str | None, project: str | None, active: bool | None, status: str | None
) -> dict[str, Any]:
    return {
        "domain": domain_scope(asker, domain),
        "project": project,
        "active": active,
        "status": status,
    }


def _keypairs(asker: Principal, domain: str | None, email: str | None, active: bool | None) -> dict[str, Any]:
    scope = owner_scope(asker, domain=domain, identity=email, own=asker.email)
    return {"domain": scope.domain, "email": scope.identity, "active": active}


def _keypair_kind(asker: Principal) -> Kind:
    return KEYPAIR_WITHOUT_SUPERIORS if asker.role is UserRole.ADMIN else KEYPAIR


def _projects(asker: Principal, domain: str | None) -> Mapping[str, Any]:
    match asker.role:
        case UserRole.SUPERADMIN:
            return {"domain": domain}
        case UserRole.ADMIN:
            if domain is not None and domain != asker.domain_name:
                raise Forbidden
            return {"domain": asker.domain_name}
        case UserRole.USER:
            return {"domain": domain, "member": asker.user_id}
    raise unknown_role()
