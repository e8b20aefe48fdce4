"""What the rules for creating a session need to know of its owner, in one query."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backendai.bridges.postgres import Connection, Database


@dataclass(frozen=True, slots=True)
class Standing:
    """An owner's rights where the session is to be. ``project_id`` is None when there is no such project."""

    domain_exists: bool
    #: Registries that images may come from; empty admits all.
    registries: tuple[str, ...]
    project_id: UUID | None
    is_member: bool
    max_containers: int
    allow_network: bool
    bootstrap_script: str | None
    #: Scaling groups open to the key, its project or its domain, by name.
    scaling_groups: tuple[str, ...]


async def standing(
    connection: Connection | Database, access_key: str, user_id: UUID, domain: str, project: str
) -> Standing:
    row = await connection.fetchrow(
        """
        SELECT d.name IS NOT NULL AS domain_exists, d.allowed_docker_registries, p.id AS project_id,
               EXISTS (SELECT FROM memberships m WHERE m.user_id = $2 AND m.project_id = p.id) AS is_member,
               r.max_containers_per_session, r.allow_network, k.bootstrap_script,
               ARRAY(
                   SELECT g.name FROM scaling_groups g
                   WHERE g.is_active AND (
                       EXISTS (SELECT FROM scaling_group_domains x
                               WHERE x.scaling_group = g.name AND x.domain_name = d.name)
                       OR EXISTS (SELECT FROM scaling_group_projects x
                                  WHERE x.scaling_group = g.name AND x.project_id = p.id)
                       OR EXISTS (SELECT FROM scaling_group_keypairs x
                                  WHERE x.scaling_group = g.name AND x.access_key = k.access_key))
                   ORDER BY g.name
               ) AS scaling_groups
        FROM keypairs k JOIN keypair_resource_policies r ON r.name = k.resource_policy
        LEFT JOIN domains d ON d.name = $3 AND d.is_active
        LEFT JOIN projects p ON p.domain_name = d.name AND p.name = $4 AND p.is_active
        WHERE k.access_key = $1
        """,
        access_key,
        user_id,
        domain,
        project,
    )
    if row is None:
        raise LookupError("the key pair is gone")
    return Standing(
        domain_exists=row["domain_exists"],
        registries=tuple(row["allowed_docker_registries"] or ()),
        project_id=row["project_id"],
        is_member=row["is_member"],
        max_containers=row["max_containers_per_session"],
        allow_network=row["allow_network"],
        bootstrap_script=row["bootstrap_script"],
        scaling_groups=tuple(row["scaling_groups"]),
    )
