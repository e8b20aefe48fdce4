"""The dotfiles of key pairs, projects and domains, each holder's as one list."""

from __future__ import annotations

from uuid import UUID

import msgspec

from backendai.bridges.postgres import Connection, Database
from backendai.core.dotfiles import Holder, HolderKind
from backendai.core.kernel import Dotfile

_PLACES = {
    HolderKind.KEYPAIR: ("keypairs", "access_key"),
    HolderKind.PROJECT: ("projects", "id"),
    HolderKind.DOMAIN: ("domains", "name"),
}


async def find(
    connection: Connection | Database, holder: Holder, *, to_change: bool = False
) -> list[Dotfile] | None:
    """The holder's files, or None when there is no such holder. ``to_change`` locks them."""
    table, key = _PLACES[holder.kind]
    lock = "FOR NO KEY UPDATE" if to_change else ""
    rows = await connection.fetch(
        f"SELECT dotfiles FROM {table} WHERE {key} = $1 {lock}",  # noqa: S608  constants of this module
        holder.id,
    )
    return msgspec.convert(rows[0]["dotfiles"], list[Dotfile]) if rows else None


async def replace(connection: Connection, holder: Holder, files: list[Dotfile]) -> None:
    table, key = _PLACES[holder.kind]
    await connection.execute(
        f"UPDATE {table} SET dotfiles = $2 WHERE {key} = $1",  # noqa: S608  constants of this module
        holder.id,
        msgspec.to_builtins(files),
    )


async def project(connection: Connection | Database, project_id: UUID) -> tuple[UUID, str] | None:
    """Id and domain of a project, if there is one."""
    row = await connection.fetchrow("SELECT id, domain_name FROM projects WHERE id = $1", project_id)
    return None if row is None else (row["id"], row["domain_name"])


async def bootstrap_script(connection: Connection | Database, access_key: str) -> str:
    script: str | None = await connection.fetchval(
        "SELECT bootstrap_script FROM keypairs WHERE access_key = $1", access_key
    )
    return script or ""


async def set_bootstrap_script(connection: Connection | Database, access_key: str, script: str) -> None:
    await connection.execute(
        "UPDATE keypairs SET bootstrap_script = nullif($2, '') WHERE access_key = $1", access_key, script
    )
