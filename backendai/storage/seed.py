"""What a fresh installation starts with."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field

from backendai.bridges.postgres import Connection
from backendai.core.account import Secret

_ADMIN = "admin@backendai.local"
_USER = "user@backendai.local"
#: Any constant that nothing else in the database locks.
_SEED_LOCK = 0x7365_6564


@dataclass(frozen=True, slots=True)
class FirstAccounts:
    """The key pairs of the ordinary first user and of the first administrator."""

    access_key: str
    admin_access_key: str
    secret_key: Secret = field(repr=False)
    admin_secret_key: Secret = field(repr=False)

    def content(self) -> dict[str, str]:
        """For programs; secrets included, so for nobody but the owner."""
        return {
            "access_key": self.access_key,
            "secret_key": self.secret_key.reveal(),
            "admin_access_key": self.admin_access_key,
            "admin_secret_key": self.admin_secret_key.reveal(),
        }


def new_access_key() -> str:
    """20 characters, beginning with ``AKIA`` as clients expect."""
    return "AKIA" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(16))


def new_secret_key() -> Secret:
    """40 characters from 240 random bits."""
    return Secret(secrets.token_urlsafe(30))


async def ensure_first_accounts(connection: Connection) -> FirstAccounts:
    """Make domain, project, policy, scaling group, two users and their key pairs where they are missing.

    Call it in a transaction. What is there stays as it is, keys included, however often this runs and whoever
    runs it at the same time.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _SEED_LOCK)
    await connection.execute(
        """
        INSERT INTO domains (name, description) VALUES ('default', 'The default domain') ON CONFLICT DO
        NOTHING; INSERT INTO projects (name, domain_name, description)
            VALUES ('default', 'default', 'The default project') ON CONFLICT DO NOTHING;
        INSERT INTO keypair_resource_policies (name, max_concurrent_sessions, max_containers_per_session)
            VALUES ('default', 30, 8) ON CONFLICT DO NOTHING;
        INSERT INTO scaling_groups (name, description)
            VALUES ('default', 'The default scaling group') ON CONFLICT DO NOTHING;
        INSERT INTO scaling_group_domains (scaling_group, domain_name)
            VALUES ('default', 'default') ON CONFLICT DO NOTHING;
        """
    )
    admin = await _ensure_user(connection, _ADMIN, "superadmin")
    user = await _ensure_user(connection, _USER, "user")
    return FirstAccounts(
        access_key=user[0], secret_key=user[1], admin_access_key=admin[0], admin_secret_key=admin[1]
    )


async def _ensure_user(connection: Connection, email: str, role: str) -> tuple[str, Secret]:
    await connection.execute(
        """
        WITH made AS (
            INSERT INTO users (username, email, full_name, role, domain_name)
            VALUES (split_part($1, '@', 1), $1, initcap(split_part($1, '@', 1)), $2, 'default')
            ON CONFLICT DO NOTHING RETURNING id
        )
        INSERT INTO memberships (user_id, project_id)
        SELECT made.id, projects.id FROM made, projects
        WHERE projects.name = 'default' AND projects.domain_name = 'default'
        """,
        email,
        role,
    )
    row = await connection.fetchrow(
        """
        WITH account AS (SELECT id FROM users WHERE email = $1),
        first AS (
            SELECT access_key, secret_key FROM keypairs WHERE user_id = (SELECT id FROM account)
            ORDER BY created_at, access_key LIMIT 1
        ),
        made AS (
            INSERT INTO keypairs (access_key, secret_key, user_id, is_admin, resource_policy)
            SELECT $2, $3, account.id, $4, 'default' FROM account WHERE NOT EXISTS (SELECT FROM first)
            RETURNING access_key, secret_key
        )
        SELECT access_key, secret_key FROM first UNION ALL SELECT access_key, secret_key FROM made
        """,
        email,
        new_access_key(),
        new_secret_key().reveal(),
        role in ("superadmin", "admin"),
    )
    assert row is not None
    return row["access_key"], Secret(row["secret_key"])
