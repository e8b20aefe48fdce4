"""Installation-wide values that change at run time."""

from __future__ import annotations

from typing import Any

from backendai.bridges.postgres import Connection, Database
from backendai.core.notice import SettingsChanged
from backendai.storage.notices import notify


async def read(connection: Connection | Database, *keys: str) -> dict[str, Any]:
    """The values of those ``keys`` that are set."""
    rows = await connection.fetch("SELECT key, value FROM settings WHERE key = ANY($1)", list(keys))
    return {row["key"]: row["value"] for row in rows}


async def write(connection: Connection, key: str, value: Any) -> None:
    """Set a value, or with ``None`` unset it, and tell every process when the transaction commits."""
    if value is None:
        await connection.execute("DELETE FROM settings WHERE key = $1", key)
    else:
        await connection.execute(
            """
            INSERT INTO settings (key, value) VALUES ($1, $2)
            ON CONFLICT (key) DO UPDATE SET value = $2, modified_at = now()
            """,
            key,
            value,
        )
    await notify(connection, SettingsChanged())
