"""Session and cluster templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.template import Template, TemplateDraft, TemplateKind

_TEMPLATES = """
    SELECT t.id, t.type, t.name, t.template, t.user_id, t.domain_name, t.project_id, t.created_at,
           u.email, p.name AS project_name
    FROM session_templates t JOIN users u ON u.id = t.user_id LEFT JOIN projects p ON p.id = t.project_id
    WHERE t.is_active
"""
#: Those of the user $1 and of the user's projects; of everybody where $2 holds.
_VISIBLE = """
    AND ($2 OR t.user_id = $1
         OR t.project_id IN (SELECT m.project_id FROM memberships m WHERE m.user_id = $1))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A project that templates can be put into, and what the user who asked is there."""

    project_id: UUID
    domain_name: str
    is_member: bool


@dataclass(frozen=True, slots=True)
class Holding:
    """How many templates a user has, and the characters of them all."""

    number: int
    characters: int


async def place(
    connection: Connection | Database, user_id: UUID, domain: str, project: str | UUID
) -> Place | None:
    """A project by its name or id."""
    column = "id" if isinstance(project, UUID) else "name"
    row = await connection.fetchrow(
        f"""
        SELECT p.id, p.domain_name, EXISTS (
            SELECT FROM memberships m WHERE m.project_id = p.id AND m.user_id = $1) AS is_member
        FROM projects p WHERE p.domain_name = $2 AND p.{column} = $3 AND p.is_active
        """,  # noqa: S608  one of two columns
        user_id,
        domain,
        project,
    )
    return None if row is None else Place(row["id"], row["domain_name"], row["is_member"])


async def holding(connection: Connection, user_id: UUID) -> Holding:
    """Locks the user, so that what is found stays true until the transaction ends."""
    await connection.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", user_id)
    row = await connection.fetchrow(
        """
        SELECT count(*) AS number, coalesce(sum(length(template::text)), 0) AS characters
        FROM session_templates WHERE user_id = $1 AND is_active
        """,
        user_id,
    )
    assert row is not None
    return Holding(row["number"], int(row["characters"]))


async def insert(
    connection: Connection, kind: TemplateKind, user_id: UUID, place: Place, draft: TemplateDraft
) -> UUID:
    found: UUID = await connection.fetchval(
        """
        INSERT INTO session_templates (domain_name, project_id, user_id, type, name, template)
        VALUES ($1, $2, $3, $4, $5, $6) RETURNING id
        """,
        place.domain_name,
        place.project_id,
        user_id,
        kind,
        draft.name,
        draft.document,
    )
    return found


async def replace(
    connection: Connection, template_id: UUID, draft: TemplateDraft, place: Place | None
) -> None:
    """Without ``place`` it stays in its project."""
    await connection.execute(
        """
        UPDATE session_templates SET name = $2, template = $3,
            domain_name = coalesce($4, domain_name), project_id = coalesce($5, project_id)
        WHERE id = $1
        """,
        template_id,
        draft.name,
        draft.document,
        None if place is None else place.domain_name,
        None if place is None else place.project_id,
    )


async def deactivate(connection: Connection | Database, template_id: UUID) -> None:
    await connection.execute("UPDATE session_templates SET is_active = false WHERE id = $1", template_id)


async def visible(
    connection: Connection | Database,
    kind: TemplateKind,
    user_id: UUID,
    *,
    everybodys: bool,
    project_id: UUID | None,
) -> list[Template]:
    """The newest first."""
    rows = await connection.fetch(
        f"""
        {_TEMPLATES} {_VISIBLE} AND t.type = $3 AND ($4::uuid IS NULL OR t.project_id = $4)
        ORDER BY t.created_at DESC, t.id
        """,
        user_id,
        everybodys,
        kind,
        project_id,
    )
    return [_template(row) for row in rows]


async def find(
    connection: Connection | Database,
    kind: TemplateKind,
    user_id: UUID,
    template_ids: Sequence[UUID],
    *,
    everybodys: bool,
) -> dict[UUID, Template]:
    """Those of the templates that the user may see, by id."""
    rows = await connection.fetch(
        f"{_TEMPLATES} {_VISIBLE} AND t.type = $3 AND t.id = ANY($4)",
        user_id,
        everybodys,
        kind,
        list(template_ids),
    )
    return {row["id"]: _template(row) for row in rows}


def _template(row: Row) -> Template:
    document: dict[str, Any] = row["template"]
    return Template(
        id=row["id"],
        kind=TemplateKind(row["type"]),
        name=row["name"] or "",
        document=document,
        user_id=row["user_id"],
        user_email=row["email"],
        domain_name=row["domain_name"],
        project_id=row["project_id"],
        project_name=row["project_name"],
        created_at=row["created_at"],
    )
