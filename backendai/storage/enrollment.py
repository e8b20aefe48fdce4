"""Which CURVE keys may speak for which agent, and the one-time tokens by which agents on other hosts get
there.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from backendai.bridges.postgres import Connection, Database
from backendai.core.notice import SettingsChanged
from backendai.storage.notices import notify


async def issue_token(
    connection: Connection | Database, *, valid_for: timedelta, scaling_group: str = "default"
) -> str:
    """A token that enrolls one agent, once. Only its hash is stored: the answer is the one place to read
    it.
    """
    token = secrets.token_urlsafe(32)
    await connection.execute(
        """
        INSERT INTO agent_enrollments (token_hash, scaling_group, expires_at) VALUES ($1, $2, now() + $3)
        """,
        _hash(token),
        scaling_group,
        valid_for,
    )
    return token


async def redeem(connection: Connection, token: str, agent_id: str, public_key: str) -> bool:
    """Use a token up and trust the key; False if the token is unknown, expired or used. In a transaction."""
    found = await connection.fetchval(
        """
        UPDATE agent_enrollments SET redeemed_at = now()
        WHERE token_hash = $1 AND redeemed_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        RETURNING true
        """,
        _hash(token),
    )
    if found:
        await trust(connection, agent_id, public_key)
    return found is True


async def trust(connection: Connection | Database, agent_id: str, public_key: str) -> None:
    """Let this key, and no other, speak for the agent."""
    await connection.execute(
        """
        INSERT INTO agent_keys (agent_id, public_key) VALUES ($1, $2)
        ON CONFLICT (agent_id) DO UPDATE SET public_key = $2, created_at = now()
        """,
        agent_id,
        public_key,
    )
    await notify(connection, SettingsChanged())


async def trusted(connection: Connection | Database) -> dict[str, str]:
    """Public key to agent id."""
    rows = await connection.fetch("SELECT agent_id, public_key FROM agent_keys")
    return {row["public_key"]: row["agent_id"] for row in rows}


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
