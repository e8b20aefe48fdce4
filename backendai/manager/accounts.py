"""Who may do what, and how much they asked."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar
from uuid import UUID

import trio

from backendai.bridges.postgres import Database
from backendai.core.account import Credential, Principal
from backendai.core.errors import Forbidden, InvalidParameters
from backendai.storage import accounts as store

V = TypeVar("V")

#: Accounts kept in memory, and access keys known to be unknown.
_CACHE_SIZE = 10_000
#: Seconds for which an access key without an account is believed to have none. What comes to be in the
#: meantime is told by a notice, so this only bounds the work that guessing costs us.
_UNKNOWN_FOR = 5.0


class AccountService:
    """Credentials by access key, from memory while notices of changes can be heard."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, Credential] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._trusted = False
        #: Grows with every invalidation: what was read before one must not be kept after it.
        self._generation = 0
        self._queries: dict[str, int] = {}

    async def credential(self, access_key: str) -> Credential | None:
        """The account behind an access key; ``None`` if there is none or it may not be used now."""
        found = self._known.get(access_key)
        if found is not None:
            return found
        unknown_until = self._unknown.get(access_key)
        if unknown_until is not None and trio.current_time() < unknown_until:
            return None
        generation = self._generation
        credential = await store.credential(self._database, access_key)
        if self._trusted and generation == self._generation:
            if credential is not None:
                _keep(self._known, access_key, credential)
            else:
                _keep(self._unknown, access_key, trio.current_time() + _UNKNOWN_FOR)
        return credential

    async def acting_as(self, principal: Principal, owner_access_key: str | None) -> Principal:
        """Whom a request is for (contract 01 §4). Raises :class:`Forbidden` or :class:`InvalidParameters`."""
        if owner_access_key is None or owner_access_key == principal.access_key:
            return principal
        if not (principal.is_superadmin or principal.is_admin):
            raise Forbidden("Only admins can perform operations on behalf of other users.")
        found = await self.credential(owner_access_key)
        if found is None:
            raise InvalidParameters("Unknown owner access key")
        owner = found.principal
        if not principal.is_superadmin:
            if owner.domain_name != principal.domain_name:
                raise Forbidden(
                    "Domain-admins can perform operations on behalf of users in the same domain only."
                )
            if owner.is_superadmin:
                raise Forbidden("Domain-admins cannot perform operations on behalf of super-admins.")
        return owner

    async def groups_of(self, principal: Principal) -> list[tuple[UUID, str]]:
        """Id and name of the projects the user belongs to."""
        return await store.projects_of(self._database, principal.user_id)

    def count_query(self, access_key: str) -> None:
        """One more request by this key; written down later, together with others'."""
        self._queries[access_key] = self._queries.get(access_key, 0) + 1

    async def flush_queries(self) -> None:
        """Write the counted requests down."""
        counts, self._queries = self._queries, {}
        if counts:
            await store.add_queries(self._database, counts)

    # -- called by the notice board

    def trust_cache(self, trusted: bool) -> None:
        """Keep accounts in memory from now on, or no longer."""
        self._trusted = trusted
        self.forget(None)

    def forget(self, access_key: str | None) -> None:
        """An account changed; without a key any may have."""
        self._generation += 1
        if access_key is None:
            self._known.clear()
            self._unknown.clear()
        else:
            self._known.pop(access_key, None)
            self._unknown.pop(access_key, None)


def _keep(cache: OrderedDict[str, V], key: str, value: V) -> None:
    cache[key] = value
    while len(cache) > _CACHE_SIZE:
        cache.popitem(last=False)
