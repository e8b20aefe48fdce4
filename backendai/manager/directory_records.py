"""Reads records with all that was selected of them: one statement per list, one per relation below it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Required, TypedDict
from uuid import UUID

from backendai.bridges.postgres import Database
from backendai.core.errors import InvalidParameters
from backendai.core.query import Relation, Selection, parse_filter, parse_order
from backendai.storage.listing import KEY, PARENT, Link, Listing, Record, read_all, read_linked, read_page

#: Records one page may have; clients ask for 100 at most.
MAX_PAGE = 1000
#: Records of a plain array, and of one relation over all the records that have it.
MAX_ARRAY = 1000
MAX_RELATED = 10_000


class Paging(TypedDict, total=False):
    """The arguments that all paginated lists share."""

    limit: Required[int]
    offset: Required[int]
    filter: str | None
    order: str | None


class LiveStatistics(Protocol):
    """The newest measurements as metrics objects, of those that have any; many are asked for at once."""

    async def kernels(self, ids: Iterable[UUID]) -> Mapping[UUID, Mapping[str, Any]]: ...

    async def agents(self, ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Related:
    """A relation: which records, how they belong, and which conditions its arguments state."""

    kind: Kind
    link: Link
    conditions: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _arguments: {}


@dataclass(frozen=True, slots=True)
class Kind:
    """A listing with its relations, and with fields that come from the live statistics."""

    listing: Listing
    relations: Mapping[str, Related] = field(default_factory=dict)
    live_fields: frozenset[str] = frozenset()
    #: Columns that the live fields are made from, beside the key.
    live_columns: frozenset[str] = frozenset()
    fill: Callable[[LiveStatistics, Sequence[Record]], Awaitable[None]] | None = None


class RecordReader:
    def __init__(self, database: Database, statistics: LiveStatistics) -> None:
        self._database = database
        self._statistics = statistics

    async def page(self, kind: Kind, wanted: Selection, where: Mapping[str, Any], paging: Paging) -> Record:
        """``{"items", "total_count"}``, each read only when selected.

        Raises :class:`~backendai.core.query.QuerySyntaxError` for filter and order, and
        :class:`InvalidParameters` for a limit or offset out of range.
        """
        limit, offset = paging["limit"], paging["offset"]
        if not 0 <= limit <= MAX_PAGE or offset < 0:
            raise InvalidParameters(f"limit must be from 0 to {MAX_PAGE}, offset must not be negative")
        filter_text = paging.get("filter")
        items = wanted.relations.get("items")
        page = await read_page(
            self._database,
            kind.listing,
            _columns(kind, items.selection) if items else (),
            where=where,
            filter=parse_filter(filter_text) if filter_text is not None else None,
            order=parse_order(paging.get("order") or ""),
            limit=limit if items else 0,
            offset=offset,
            count="total_count" in wanted.fields,
        )
        if items:
            await self._complete(kind, page.rows, items.selection)
        return {"items": page.rows, "total_count": page.total}

    async def array(
        self, kind: Kind, wanted: Selection, where: Mapping[str, Any], *, limit: int = MAX_ARRAY
    ) -> list[Record]:
        rows = await read_all(self._database, kind.listing, _columns(kind, wanted), where=where, limit=limit)
        await self._complete(kind, rows, wanted)
        return rows

    async def one(self, kind: Kind, wanted: Selection, where: Mapping[str, Any]) -> Record | None:
        rows = await self.array(kind, wanted, where, limit=1)
        return rows[0] if rows else None

    async def _complete(self, kind: Kind, rows: Sequence[Record], wanted: Selection) -> None:
        if not rows:
            return
        if kind.fill is not None and wanted.fields & kind.live_fields:
            await kind.fill(self._statistics, rows)
        for source, relation in wanted.relations.items():
            if relation.name not in kind.listing.fields:
                await self._relate(kind.relations[relation.name], source, relation, rows)

    async def _relate(
        self, related: Related, source: str, relation: Relation, rows: Sequence[Record]
    ) -> None:
        found = await read_linked(
            self._database,
            related.kind.listing,
            related.link,
            _columns(related.kind, relation.selection),
            parents=[row[KEY] for row in rows],
            where=related.conditions(relation.arguments),
            limit=MAX_RELATED,
        )
        await self._complete(related.kind, found, relation.selection)
        by_parent: dict[str, list[Record]] = {row[KEY]: [] for row in rows}
        for record in found:
            by_parent[record[PARENT]].append(record)
        for row in rows:
            row[source] = by_parent[row[KEY]]


def _columns(kind: Kind, wanted: Selection) -> frozenset[str]:
    """What to read of the listing itself. Related records that it holds as one column count as a field."""
    columns = wanted.fields - kind.live_fields
    if wanted.fields & kind.live_fields:
        columns |= kind.live_columns
    held = {relation.name for relation in wanted.relations.values()} & kind.listing.fields.keys()
    return columns | held
