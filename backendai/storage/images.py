"""Images, the names people call them by, and the agents that have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.image import BadReference, ImageReference, aliases_of, parse_reference
from backendai.core.kernel import ImageSpec

_COLUMNS = """
    i.id, i.canonical, i.architecture, i.registry, i.name, i.tag, i.language, i.labels, i.resources,
    ARRAY(SELECT a.alias FROM image_aliases a WHERE a.image_id = i.id ORDER BY a.alias) AS aliases,
    ARRAY(SELECT g.agent_id FROM agent_images g JOIN agents ON agents.id = g.agent_id
          WHERE g.image_id = i.id AND agents.status = 'ALIVE' ORDER BY 1) AS agents
"""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    id: UUID
    canonical: str
    architecture: str
    registry: str
    name: str
    tag: str
    language: str
    labels: dict[str, str]
    #: Slot to ``{"min": str, "max": str | None}``.
    resources: dict[str, dict[str, str | None]]
    aliases: tuple[str, ...]
    #: Agents that are alive and have it.
    agents: tuple[str, ...]


async def find(connection: Connection | Database, text: str, architecture: str) -> ImageRecord | None:
    """The image of that canonical reference, or else of that alias; of another architecture if it is the
    only one.
    """
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM images i
        WHERE i.is_active AND (i.canonical = $1 OR i.canonical = $2
              OR i.id IN (SELECT image_id FROM image_aliases WHERE alias = $1))
        ORDER BY (i.canonical IN ($1, $2)) DESC, (i.architecture = $3) DESC, i.created_at DESC LIMIT 1
        """,  # noqa: S608  a constant of this module
        text,
        _canonical(text),
        architecture,
    )
    return None if row is None else _record(row)


async def every(connection: Connection | Database) -> list[ImageRecord]:
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM images i WHERE i.is_active ORDER BY i.canonical"  # noqa: S608
    )
    return [_record(row) for row in rows]


async def set_alias(connection: Connection, alias: str, image_id: UUID) -> None:
    await connection.execute(
        """
        INSERT INTO image_aliases (alias, image_id, automatic) VALUES ($1, $2, false)
        ON CONFLICT (alias) DO UPDATE SET image_id = $2, automatic = false
        """,
        alias,
        image_id,
    )


async def drop_alias(connection: Connection | Database, alias: str) -> bool:
    """False when there is none of that name."""
    return await connection.execute("DELETE FROM image_aliases WHERE alias = $1", alias) == "DELETE 1"


async def set_agent_images(
    connection: Connection, agent_id: str, architecture: str, images: Sequence[ImageSpec]
) -> None:
    """Record what the agent has: images and their short names appear as needed, lost ones leave the agent
    only.
    """
    references = [parse_reference(image.canonical) for image in images]
    await connection.execute(
        """
        WITH told AS (
            SELECT * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
                AS t(canonical, registry, name, tag, kernelspec, language)
        ), made AS (
            INSERT INTO images (canonical, architecture, registry, name, tag, kernelspec, language)
            SELECT canonical, $2, registry, name, tag, kernelspec, language FROM told ORDER BY canonical
            ON CONFLICT (canonical, architecture) DO UPDATE SET kernelspec = EXCLUDED.kernelspec, is_active
            = true RETURNING id
        ), gone AS (
            DELETE FROM agent_images WHERE agent_id = $1 AND image_id NOT IN (SELECT id FROM made)
        )
        INSERT INTO agent_images (agent_id, image_id) SELECT $1, id FROM made ON CONFLICT DO NOTHING
        """,
        agent_id,
        architecture,
        [reference.canonical for reference in references],
        [reference.registry for reference in references],
        [reference.name for reference in references],
        [reference.tag for reference in references],
        [image.kernelspec for image in images],
        [image.language for image in images],
    )
    await _set_automatic_aliases(connection, architecture, references)


async def _set_automatic_aliases(
    connection: Connection, architecture: str, references: Sequence[ImageReference]
) -> None:
    """Among images that share a short name the higher tag gets it; names that people gave stay."""
    owners: dict[str, ImageReference] = {}
    for reference in sorted(references, key=lambda r: _version_key(r.tag)):
        for alias in aliases_of(reference):
            owners[alias] = reference
    await connection.execute(
        """
        INSERT INTO image_aliases (alias, image_id, automatic)
        SELECT t.alias, i.id, true FROM unnest($1::text[], $2::text[]) AS t(alias, canonical)
        JOIN images i ON i.canonical = t.canonical AND i.architecture = $3 ORDER BY t.alias
        ON CONFLICT (alias) DO UPDATE SET image_id = EXCLUDED.image_id WHERE image_aliases.automatic
        """,
        list(owners),
        [reference.canonical for reference in owners.values()],
        architecture,
    )


def _version_key(tag: str) -> list[tuple[int, int, str]]:
    parts = tag.replace("-", ".").split(".")
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _canonical(text: str) -> str:
    try:
        return parse_reference(text).canonical
    except BadReference:
        return text


def _record(row: Row) -> ImageRecord:
    return ImageRecord(
        id=row["id"],
        canonical=row["canonical"],
        architecture=row["architecture"],
        registry=row["registry"],
        name=row["name"],
        tag=row["tag"],
        language=row["language"],
        labels=row["labels"],
        resources=row["resources"],
        aliases=tuple(row["aliases"]),
        agents=tuple(row["agents"]),
    )
