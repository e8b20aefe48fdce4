"""Whether a database is one to work with: new enough, ours or empty, with the tables of this version."""

from __future__ import annotations

from backendai.bridges.postgres import Database, Row
from backendai.storage import revisions

#: The oldest major version of PostgreSQL that this is tried with.
OLDEST = 15
#: Names of foreign tables that a message lists.
_NAMED = 3
_LOOK = """
    SELECT current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_version') AS version,
        current_setting('server_encoding') AS encoding,
        current_database()::text AS database, current_user::text AS role,
        pg_is_in_recovery() AS standby,
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
        to_regclass('alembic_version') IS NOT NULL AS migrated,
        to_regclass('keypair_resource_policies') IS NOT NULL AS ours,
        ARRAY(SELECT relname::text FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
            ORDER BY relname) AS tables
"""


class DatabaseUnfit(Exception):
    """The database cannot be worked with; the text is one line for the person who chose it."""


async def check_before_migration(database: Database) -> None:
    """See that migrations may be applied: to an empty database, or to one of ours that is not newer.

    Raises :class:`DatabaseUnfit`, and ``DatabaseUnavailable``.
    """
    found = await _look(database)
    revision = await _revision(database, found)
    if revision is not None and revision not in revisions.known():
        raise DatabaseUnfit(f"{_newer(found, revision)}: a newer version of backendai has been here")
    if revision is None and not found["may_create"]:
        raise DatabaseUnfit(
            f"{found['role']} may not create tables in database {found['database']}: "
            f"make it the owner, or GRANT CREATE ON SCHEMA public"
        )


async def check_before_use(database: Database) -> None:
    """See that the tables are those of this version, or of a later one: that is so while new gateways take
    over from old ones.

    Raises :class:`DatabaseUnfit`, and ``DatabaseUnavailable``.
    """
    found = await _look(database)
    revision = await _revision(database, found)
    needed = revisions.known()[-1]
    if revision is None or revision < needed:
        raise DatabaseUnfit(
            f"database {found['database']} is at revision {revision or 'none'} and {needed} is needed: "
            "run `backendai db upgrade`"
        )


async def _look(database: Database) -> Row:
    found = await database.fetchrow(_LOOK)
    assert found is not None
    if found["major"] < OLDEST:
        raise DatabaseUnfit(f"PostgreSQL {found['version']} is too old: {OLDEST} or newer is needed")
    if found["standby"]:
        raise DatabaseUnfit("that PostgreSQL is a standby, which takes no writes: name the primary")
    if found["encoding"] != "UTF8":
        raise DatabaseUnfit(f"database {found['database']} holds {found['encoding']} text: UTF8 is needed")
    return found


async def _revision(database: Database, found: Row) -> str | None:
    """The revision of a database of ours, None of an empty one."""
    if not found["migrated"] and not found["tables"]:
        return None
    if found["migrated"]:
        revision: str | None = await database.fetchval("SELECT version_num FROM alembic_version")
        if revision is None and found["tables"] == ["alembic_version"]:
            return None
        if revision is not None and found["ours"]:
            return revision
    named = ", ".join(found["tables"][:_NAMED]) + (", ..." if len(found["tables"]) > _NAMED else "")
    raise DatabaseUnfit(
        f"database {found['database']} holds tables of something else ({named}): an empty one is needed"
    )


def _newer(found: Row, revision: str) -> str:
    return f"database {found['database']} is at revision {revision}, which this version does not know"
