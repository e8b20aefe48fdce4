"""Users, key pairs and where they belong."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from backendai.bridges.postgres import Connection, Database, Row
from backendai.core.account import Credential, Principal, Secret, UserRole
from backendai.core.ids import AccessKey

_CREDENTIAL = """
    SELECT k.access_key, k.secret_key, k.is_admin, k.resource_policy, k.rate_limit,
           u.id AS user_id, u.email, u.role, u.domain_name
    FROM keypairs k JOIN users u ON u.id = k.user_id JOIN domains d ON d.name = u.domain_name
    WHERE k.access_key = $1 AND k.is_active AND u.status = 'active' AND d.is_active
"""


async def credential(connection: Connection | Database, access_key: str) -> Credential | None:
    """The key pair as requests use it; ``None`` when unknown or when it, its user or domain is inactive."""
    row = await connection.fetchrow(_CREDENTIAL, access_key)
    return None if row is None else Credential(_principal(row), Secret(row["secret_key"]))


async def projects_of(connection: Connection | Database, user_id: UUID) -> list[tuple[UUID, str]]:
    """The active projects that the user is a member of."""
    rows = await connection.fetch(
        """
        SELECT p.id, p.name FROM memberships m JOIN projects p ON p.id = m.project_id
        WHERE m.user_id = $1 AND p.is_active ORDER BY p.name
        """,
        user_id,
    )
    return [(row["id"], row["name"]) for row in rows]


async def project_ids(connection: Connection | Database, name: str, domain: str | None) -> list[UUID]:
    """Active projects of that name, of one domain or of any."""
    rows = await connection.fetch(
        "SELECT id FROM projects WHERE name = $1 AND is_active AND ($2::text IS NULL OR domain_name = $2)",
        name,
        domain,
    )
    return [row["id"] for row in rows]


async def add_queries(connection: Connection | Database, counts: Mapping[str, int]) -> None:
    """Count requests made with these key pairs, and note that they were used."""
    await connection.execute(
        """
        UPDATE keypairs SET num_queries = num_queries + c.number, last_used = now()
        FROM unnest($1::text[], $2::bigint[]) AS c(access_key, number)
        WHERE keypairs.access_key = c.access_key
        """,
        list(counts),
        list(counts.values()),
    )


def _principal(row: Row) -> Principal:
    return Principal(
        access_key=AccessKey(row["access_key"]),
        user_id=row["user_id"],
        email=row["email"],
        role=UserRole(row["role"]),
        domain_name=row["domain_name"],
        is_admin=row["is_admin"],
        resource_policy=row["resource_policy"],
        rate_limit=row["rate_limit"],
    )
