"""Looking up sessions and their kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack
from uuid import UUID

import msgspec

from backendai.core.account import Principal
from backendai.core.kernel import KernelStat
from backendai.core.query import Selection
from backendai.core.session import SessionStatus
from backendai.core.statistics import metrics
from backendai.manager.directory_records import Kind, LiveStatistics, Paging, RecordReader, Related
from backendai.manager.directory_scope import owner_scope, uuid_text
from backendai.storage.listing import KEY, Record
from backendai.storage.listing_sessions import (
    DEPENDENCIES_OF_SESSION,
    KERNELS,
    KERNELS_OF_SESSION,
    SESSIONS,
)


def statuses(text: str | None) -> list[str] | None:
    """The names in a comma-joined list; names that this version does not know are passed over."""
    if text is None:
        return None
    names = {name.strip() for name in text.split(",")}
    return [status for status in SessionStatus if status in names]


def with_status(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The conditions of relations that take a ``status`` argument."""
    return {"statuses": statuses(arguments.get("status"))}


async def _fill_statistics(live: LiveStatistics, rows: Sequence[Record]) -> None:
    """The newest measurement of each kernel: of a live one from memory, else the one written down."""
    newest = await live.kernels([UUID(row[KEY]) for row in rows if row["terminated_at"] is None])
    for row in rows:
        stat: Mapping[str, Any] | None = newest.get(UUID(row[KEY]))
        if stat is None and row["last_stat"] is not None:
            stat = metrics(msgspec.convert(row["last_stat"], KernelStat))
        row["live_stat"] = row["last_stat"] = json.dumps(stat) if stat is not None else None


KERNEL = Kind(
    KERNELS,
    live_fields=frozenset({"live_stat", "last_stat"}),
    live_columns=frozenset({"last_stat", "terminated_at"}),
    fill=_fill_statistics,
)
_of_session = {"containers": Related(KERNEL, KERNELS_OF_SESSION)}
SESSION = Kind(SESSIONS, relations=_of_session)
# Sessions depend on sessions: the one relation that can only be named once the kind exists.
_of_session["dependencies"] = Related(SESSION, DEPENDENCIES_OF_SESSION)


class SessionDirectory:
    """Methods are named like the root fields that ask them; ``wanted`` is what is selected of the answer."""

    def __init__(self, records: RecordReader) -> None:
        self._records = records

    async def compute_session(self, asker: Principal, wanted: Selection, *, id: str) -> Record | None:
        """None also for a session that is not the asker's to see."""
        scope = owner_scope(asker, domain=None, identity=None, own=asker.access_key)
        where = {"id": id, "domain": scope.domain, "access_key": scope.identity}
        return await self._records.one(SESSION, wanted, where)

    async def compute_session_list(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        domain_name: str | None = None,
        group_id: str | None = None,
        access_key: str | None = None,
        status: str | None = None,
        **paging: Unpack[Paging],
    ) -> Record:
        where = _owned(asker, domain_name, group_id, access_key)
        return await self._records.page(SESSION, wanted, {**where, "statuses": statuses(status)}, paging)

    async def compute_container(self, asker: Principal, wanted: Selection, *, id: str) -> Record | None:
        return await self._records.one(KERNEL, wanted, {**_owned(asker, None, None, None), "id": id})

    async def compute_container_list(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        session_id: str,
        role: str | None = None,
        domain_name: str | None = None,
        group_id: str | None = None,
        access_key: str | None = None,
        **paging: Unpack[Paging],
    ) -> Record:
        where = _owned(asker, domain_name, group_id, access_key)
        restriction = {**where, "session": uuid_text(session_id), "role": role}
        return await self._records.page(KERNEL, wanted, restriction, paging)


def _owned(
    asker: Principal, domain: str | None, project: str | None, access_key: str | None
) -> dict[str, Any]:
    scope = owner_scope(asker, domain=domain, identity=access_key, own=asker.access_key)
    return {
        "domain": scope.domain,
        "access_key": scope.identity,
        "project": uuid_text(project) if project is not None else None,
    }
