from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from backendai.bridges.postgres import Database
from backendai.core.errors import InvalidParameters
from backendai.core.query import FilterError, OrderError, parse_filter, parse_order
from backendai.storage.listing import PARENT, Listing, read_all, read_linked, read_page
from backendai.storage.listing_accounts import DOMAINS, KEYPAIRS, POLICIES, PROJECTS, USERS
from backendai.storage.listing_fleet import AGENTS, IMAGES, SCALING_GROUPS
from backendai.storage.listing_sessions import (
    DEPENDENCIES_OF_SESSION,
    KERNELS,
    KERNELS_OF_SESSION,
    SESSIONS,
)
from backendai.storage.seed import FirstAccounts

LISTINGS = {
    "sessions": SESSIONS,
    "kernels": KERNELS,
    "agents": AGENTS,
    "images": IMAGES,
    "scaling_groups": SCALING_GROUPS,
    "users": USERS,
    "keypairs": KEYPAIRS,
    "policies": POLICIES,
    "domains": DOMAINS,
    "projects": PROJECTS,
}
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_minutes = itertools.count()


async def _insert(database: Database, table: str, **values: Any) -> None:
    names = ", ".join(values)
    marks = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())


async def _session(database: Database, name: str, **values: Any) -> UUID:
    """A session with its main kernel; each is a minute younger than the one before."""
    id_ = uuid4()
    at = _EPOCH + timedelta(minutes=next(_minutes))
    row = {
        "id": id_,
        "name": name,
        "access_key": "AKIATESTTESTTESTTEST",
        "user_id": uuid4(),
        "domain_name": "default",
        "project_id": uuid4(),
        "project_name": "default",
        "image": "cr/stable/python:3.11",
        "status": "RUNNING",
        "created_at": at,
        "status_changed": at,
        "occupied_slots": {"cpu": "1", "mem": "1073741824"},
        **values,
    }
    await _insert(database, "sessions", **row)
    await _insert(
        database,
        "kernels",
        id=id_,
        session_id=id_,
        image=row["image"],
        status=row["status"],
        agent_id="i-1",
    )
    return id_


async def _names(database: Database, filter: str | None = None, order: str = "", **where: Any) -> list[str]:
    page = await read_page(
        database,
        SESSIONS,
        {"name"},
        where=where,
        filter=parse_filter(filter) if filter else None,
        order=parse_order(order),
        limit=100,
        offset=0,
    )
    assert page.total == len(page.rows)
    return [row["name"] for row in page.rows]


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS.keys())
async def test_every_field_condition_and_column_is_valid_sql(
    database: Database, accounts: FirstAccounts, listing: Listing
) -> None:
    rows = await read_all(database, listing, listing.fields, where={}, limit=10)
    for row in rows:
        assert set(listing.fields) <= set(row)
    samples: dict[str, Any] = {"statuses": ["RUNNING"], "active": True, "installed": True, "operation": True}
    uuids = {"project", "session", "user", "member", "of_project"}
    if listing in (SESSIONS, KERNELS, USERS, PROJECTS):
        uuids.add("id")
    for name in listing.conditions:
        value = str(uuid4()) if name in uuids else samples.get(name, "x")
        await read_all(database, listing, listing.fields, where={name: value}, limit=10)
    values = {"TEXT": '"x"', "NUMBER": "3", "BOOLEAN": "true", "TIME": '"2026-01-01"', "UUID": f'"{uuid4()}"'}
    for name, column in listing.filters.items():
        value = f'"{next(iter(column.names))}"' if column.names else values[column.kind.name]
        for text in (f"{name} == {value}", f"{name} in [{value}]", f"{name} isnot null", f"{name} != null"):
            await read_page(
                database, listing, [], where={}, filter=parse_filter(text), limit=1, offset=0, count=True
            )
    for name in listing.orders:
        order = parse_order(f"-{name}")
        await read_page(database, listing, [], where={}, order=order, limit=1, offset=0)


async def test_filters_select(database: Database) -> None:
    await _session(database, "alpha", tag="t")
    await _session(database, "beta", type="batch", status="TERMINATED", terminated_at=_EPOCH)
    await _session(database, "Gamma", status="PENDING", cluster_size=3)
    assert await _names(database) == ["Gamma", "beta", "alpha"]
    for text, expected in {
        'name == "alpha"': ["alpha"],
        'name != "alpha"': ["Gamma", "beta"],
        'name contains "et"': ["beta"],
        'name like "%A%"': [],
        'name ilike "%A%"': ["Gamma", "beta", "alpha"],
        'status in ["PENDING", "RUNNING_DEGRADED", "TERMINATED"]': ["Gamma", "beta"],
        "status in []": [],
        "cluster_size > 1": ["Gamma"],
        "cluster_size <= 1.5": ["beta", "alpha"],
        'type == "BATCH"': ["beta"],
        "terminated_at is null": ["Gamma", "alpha"],
        "terminated_at == null": ["Gamma", "alpha"],
        'terminated_at == "Jan 1 2026"': ["beta"],
        'terminated_at < "2026-01-01T01:00:00+02:00"': [],
        'created_at > "2025-12-31"': ["Gamma", "beta", "alpha"],
        '!(name == "alpha")': ["Gamma", "beta"],
        'name == "alpha" | name == "beta" & status == "RUNNING"': ["alpha"],
        '(name == "alpha" | name == "beta") & status == "TERMINATED"': ["beta"],
        'agent == "i-1" & name == "beta"': ["beta"],
        'name == "x\' OR 1=1 --"': [],
    }.items():
        assert await _names(database, text) == expected, text
    assert await _names(database, order="created_at") == ["alpha", "beta", "Gamma"]
    assert await _names(database, order="-cluster_size,name") == ["Gamma", "alpha", "beta"]
    assert await _names(database, statuses=["RUNNING", "PENDING"]) == ["Gamma", "alpha"]
    assert await _names(database, statuses=[]) == []
    assert await _names(database, access_key="AKIATESTTESTTESTTEST", domain=None) == [
        "Gamma",
        "beta",
        "alpha",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "nosuch == 1",
        "name == 1",
        "name > true",
        'name in ["a", 1]',
        'name in "a"',
        "name is true",
        'cluster_size == "1"',
        'cluster_size like "1"',
        'type == "interactive"',
        'type like "INTER%"',
        'created_at > "not a date"',
        'created_at > "0001-01-01T00:00+14:00"',
        "created_at > 5",
        'id == "x"',
        "name == [1]",
        'name == "\0"',
        'name contains "\ud800"',
    ],
)
async def test_filters_refuse(database: Database, text: str) -> None:
    with pytest.raises(FilterError, match="Query filter parsing error: "):
        await _names(database, text)


async def test_order_refuses_unknown_columns(database: Database) -> None:
    with pytest.raises(OrderError, match="Unknown/unsupported field name"):
        await _names(database, order="nosuch")


async def test_conditions_refuse_text_that_cannot_be_stored(database: Database) -> None:
    with pytest.raises(InvalidParameters):
        await _names(database, access_key="a\0b")


async def test_pages_count_all(database: Database) -> None:
    for n in range(5):
        await _session(database, f"s{n}")
    before = database.round_trips
    page = await read_page(database, SESSIONS, {"name"}, where={}, limit=2, offset=2)
    assert ([row["name"] for row in page.rows], page.total) == (["s2", "s1"], 5)
    assert database.round_trips == before + 1
    page = await read_page(database, SESSIONS, {"name"}, where={}, limit=2, offset=50)
    assert (page.rows, page.total) == ([], 5)
    page = await read_page(database, SESSIONS, {"name"}, where={}, limit=0, offset=0)
    assert (page.rows, page.total) == ([], 5)
    page = await read_page(database, SESSIONS, {"name"}, where={"id": str(uuid4())}, limit=2, offset=0)
    assert (page.rows, page.total) == ([], 0)


async def test_linked_records_come_in_one_statement(database: Database) -> None:
    one, two = await _session(database, "one"), await _session(database, "two")
    await _insert(
        database, "kernels", id=uuid4(), session_id=one, cluster_role="sub", cluster_idx=1, image="i"
    )
    await _insert(database, "session_dependencies", session_id=two, depends_on=one)
    before = database.round_trips
    parents = [str(one), str(two)]
    kernels = await read_linked(
        database, KERNELS, KERNELS_OF_SESSION, {"cluster_role"}, parents=parents, where={}, limit=100
    )
    assert database.round_trips == before + 1
    assert [(row[PARENT], row["cluster_role"]) for row in kernels if row[PARENT] == str(one)] == [
        (str(one), "main"),
        (str(one), "sub"),
    ]
    assert len(kernels) == 3
    needed = await read_linked(
        database, SESSIONS, DEPENDENCIES_OF_SESSION, {"name"}, parents=parents, where={}, limit=100
    )
    assert [(row[PARENT], row["name"]) for row in needed] == [(str(two), "one")]


async def test_agents_show_what_is_in_use(database: Database) -> None:
    await _insert(
        database,
        "agents",
        id="i-1",
        address="tcp://127.0.0.1:6001",
        boot_id="b",
        available_slots={"cpu": "8", "mem": str(16 << 30), "cuda.device": "1"},
    )
    for amount, ended in ((1.5, None), (2, None), (4, _EPOCH)):
        await _insert(
            database,
            "allocations",
            kernel_id=uuid4(),
            slot="cpu",
            amount=amount,
            agent_id="i-1",
            access_key="a",
            user_id=uuid4(),
            project_id=uuid4(),
            domain_name="default",
            ended_at=ended,
        )
    fields = {"available_slots", "occupied_slots", "mem_slots", "cpu_slots", "used_cpu_slots", "gpu_slots"}
    (row,) = await read_all(database, AGENTS, fields, where={"id": "i-1"}, limit=1)
    assert row["available_slots"] == '{"cpu": "8", "mem": "17179869184", "cuda.device": "1"}'
    assert row["occupied_slots"] == '{"cpu": "3.5", "mem": "0", "cuda.device": "0"}'
    assert (row["mem_slots"], row["cpu_slots"], row["used_cpu_slots"], row["gpu_slots"]) == (
        16384,
        8.0,
        3.5,
        1.0,
    )
