"""Notices to every process of the installation, heard when the transaction that sends them commits."""

from __future__ import annotations

from backendai.bridges.postgres import Connection, Database
from backendai.core.notice import CHANNEL, Notice, encode


async def notify(connection: Connection | Database, *notices: Notice) -> None:
    await connection.execute(
        "SELECT pg_notify($1, n) FROM unnest($2::text[]) AS n", CHANNEL, [encode(n) for n in notices]
    )
