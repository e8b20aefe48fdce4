"""Templates of sessions and clusters: who may see, keep and change which (contract 05 §3)."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database
from backendai.core.account import Principal, UserRole
from backendai.core.errors import Forbidden, InvalidParameters, ObjectNotFound, QuotaExceeded
from backendai.core.template import MOST_CHARACTERS, MOST_TEMPLATES, Template, TemplateDraft, TemplateKind
from backendai.storage import templates as store
from backendai.storage.templates import Place


class TemplateService:
    """Users see their own templates and those of their projects, superadmins all. Owners change theirs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        requester: Principal,
        owner: Principal,
        kind: TemplateKind,
        drafts: Sequence[TemplateDraft],
        *,
        domain: str,
        project: str,
    ) -> list[UUID]:
        """Keep all of them, or none. Answers their ids.

        Raises :class:`InvalidParameters` where the owner may not keep any, or :class:`QuotaExceeded`.
        """
        async with self._database.transaction() as connection:
            held = await store.holding(connection, owner.user_id)
            _check_quota(held.number + len(drafts), held.characters + sum(map(_characters, drafts)))
            ids = []
            for draft in drafts:
                if draft.user_id not in (None, owner.user_id):
                    raise InvalidParameters.of({"user_uuid": "must be the owner; see owner_access_key"})
                place = await _place(connection, requester, owner, domain, draft.project_id or project)
                ids.append(await store.insert(connection, kind, owner.user_id, place, draft))
        return ids

    async def visible(
        self, owner: Principal, kind: TemplateKind, *, everybodys: bool, project_id: UUID | None
    ) -> list[Template]:
        """The newest first. ``everybodys`` means something for superadmins only."""
        return await store.visible(
            self._database,
            kind,
            owner.user_id,
            everybodys=everybodys and owner.is_superadmin,
            project_id=project_id,
        )

    async def get(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> Template:
        """Raises :class:`ObjectNotFound`, also for what the owner may not see."""
        return (await self.get_all(owner, kind, [template_id]))[template_id]

    async def get_all(
        self, owner: Principal, kind: TemplateKind, template_ids: Sequence[UUID]
    ) -> dict[UUID, Template]:
        """As :meth:`get`."""
        found = await store.find(
            self._database, kind, owner.user_id, template_ids, everybodys=owner.is_superadmin
        )
        if set(template_ids) - found.keys():
            raise ObjectNotFound("task template")
        return found

    async def replace(
        self,
        requester: Principal,
        owner: Principal,
        kind: TemplateKind,
        template_id: UUID,
        draft: TemplateDraft,
        *,
        domain: str | None,
        project: str | None,
    ) -> None:
        """It moves only if a domain or a project is given. Raises as :meth:`create` and :meth:`remove`."""
        before = await self._changeable(owner, kind, template_id)
        async with self._database.transaction() as connection:
            held = await store.holding(connection, before.user_id)
            more = _characters(draft) - len(msgspec.json.encode(before.document))
            _check_quota(held.number, held.characters + more)
            place = None
            if draft.project_id or project or domain:
                wanted = draft.project_id or project or before.project_name or ""
                place = await _place(connection, requester, owner, domain or before.domain_name, wanted)
            await store.replace(connection, template_id, draft, place)

    async def remove(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> None:
        """Raises :class:`ObjectNotFound`, or :class:`Forbidden` for what only can be seen."""
        await store.deactivate(self._database, (await self._changeable(owner, kind, template_id)).id)

    async def _changeable(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> Template:
        template = await self.get(owner, kind, template_id)
        if template.user_id != owner.user_id and not owner.is_superadmin:
            raise Forbidden("Only its owner can change a template.")
        return template


async def _place(
    connection: Connection, requester: Principal, owner: Principal, domain: str, project: str | UUID
) -> Place:
    """Where the owner may keep templates; admins on whose behalf somebody else acts, in more places."""
    on_behalf = requester.access_key != owner.access_key
    if domain != owner.domain_name and not (on_behalf and owner.is_superadmin):
        raise InvalidParameters("You can only set the domain to your domain.")
    found = await store.place(connection, owner.user_id, domain, project)
    admits = on_behalf and (owner.is_superadmin or owner.role is UserRole.ADMIN)
    if found is None or not (found.is_member or admits):
        raise InvalidParameters("Invalid group")
    return found


def _check_quota(number: int, characters: int) -> None:
    if number > MOST_TEMPLATES or characters > MOST_CHARACTERS:
        raise QuotaExceeded(
            f"At most {MOST_TEMPLATES} templates are kept for a user, {MOST_CHARACTERS} characters together."
        )


def _characters(draft: TemplateDraft) -> int:
    return len(msgspec.json.encode(draft.document))
