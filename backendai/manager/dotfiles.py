"""Dotfiles of key pairs, projects and domains, and the bootstrap script of a key pair (contract 05 §2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.dotfiles import Holder, HolderKind, with_changed, with_new
from backendai.core.errors import Forbidden, InvalidParameters, ObjectNotFound
from backendai.core.kernel import Dotfile
from backendai.storage import accounts as account_store
from backendai.storage import dotfiles as store

_NAMES = {
    HolderKind.KEYPAIR: "key pair",
    HolderKind.PROJECT: "user group (or project)",
    HolderKind.DOMAIN: "domain",
}


class DotfileService:
    """What is stored here is in the home directory of every kernel that is started afterwards."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- holders

    async def project(
        self, requester: Principal, project: str, domain: str | None, *, to_change: bool
    ) -> Holder:
        """A project by id, or by name and domain. Users may read of their own, admins change of their domain.

        Raises :class:`ObjectNotFound`, :class:`Forbidden`, or :class:`InvalidParameters` for a name alone.
        """
        project_id = _uuid(project)
        if project_id is None:
            if domain is None:
                raise InvalidParameters.of({"domain": "is required with the name of a group"})
            ids = await account_store.project_ids(self._database, project, domain)
            project_id = ids[0] if ids else None
        found = None if project_id is None else await store.project(self._database, project_id)
        if found is None:
            raise ObjectNotFound(_NAMES[HolderKind.PROJECT])
        holder = Holder(HolderKind.PROJECT, found[0])
        if requester.is_superadmin or (requester.is_admin and found[1] == requester.domain_name):
            return holder
        own = await account_store.projects_of(self._database, requester.user_id)
        if to_change or found[0] not in {each for each, _ in own}:
            raise Forbidden
        return holder

    def domain(self, requester: Principal, domain: str) -> Holder:
        """Raises :class:`Forbidden` for a foreign domain, which is superadmins' business only."""
        if not requester.is_superadmin and domain != requester.domain_name:
            raise Forbidden
        return Holder(HolderKind.DOMAIN, domain)

    # -- files

    async def files(self, holder: Holder) -> Sequence[Dotfile]:
        return _known(holder, await store.find(self._database, holder))

    async def file(self, holder: Holder, path: str) -> Dotfile:
        """Raises :class:`ObjectNotFound`."""
        for each in await self.files(holder):
            if each.path == path:
                return each
        raise ObjectNotFound("dotfile")

    async def add(self, holder: Holder, file: Dotfile) -> None:
        """Raises the refusals of :func:`backendai.core.dotfiles.with_new`."""
        await self._change(holder, lambda files: with_new(files, file))

    async def replace(self, holder: Holder, file: Dotfile) -> None:
        """Raises the refusals of :func:`backendai.core.dotfiles.with_changed`."""
        await self._change(holder, lambda files: with_changed(files, file))

    async def remove(self, holder: Holder, path: str) -> None:
        """Raises :class:`ObjectNotFound`."""

        def without(files: Sequence[Dotfile]) -> list[Dotfile]:
            left = [each for each in files if each.path != path]
            if len(left) == len(files):
                raise ObjectNotFound("dotfile")
            return left

        await self._change(holder, without)

    async def _change(self, holder: Holder, change: Callable[[Sequence[Dotfile]], list[Dotfile]]) -> None:
        async with self._database.transaction() as connection:
            files = await store.find(connection, holder, to_change=True)
            await store.replace(connection, holder, change(_known(holder, files)))

    # -- bootstrap script

    async def bootstrap_script(self, owner: Principal) -> str:
        """What interactive sessions of the key pair run at their start unless they name another; or empty."""
        return await store.bootstrap_script(self._database, owner.access_key)

    async def set_bootstrap_script(self, owner: Principal, script: str) -> None:
        await store.set_bootstrap_script(self._database, owner.access_key, script)


def _known(holder: Holder, files: list[Dotfile] | None) -> list[Dotfile]:
    if files is None:
        raise ObjectNotFound(_NAMES[holder.kind])
    return files


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
