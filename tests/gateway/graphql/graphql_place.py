"""A small installation to ask about: the first accounts, a domain admin, a monitor, an agent, sessions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from backendai.bridges.postgres import Database
from backendai.core.account import Principal, UserRole
from backendai.core.ids import AccessKey
from backendai.core.kernel import KernelStat
from backendai.gateway.graphql.endpoint import answer
from backendai.manager.directory import DirectoryService
from backendai.manager.live_stats import HeardStats, LiveStats
from backendai.storage.seed import FirstAccounts
from backendai.wire.link import NodeStat

SESSION = UUID("11111111-2222-3333-4444-555555555555")
STARTED = datetime(2026, 4, 1, 1, 2, 3, 123456, tzinfo=UTC)
Ask = Callable[..., Awaitable[dict[str, Any]]]


class Measured(LiveStats):
    """Live statistics as a test wants them; counts how often it is asked."""

    def __init__(self) -> None:
        self.heard = HeardStats(complete=True)
        super().__init__(self.heard, cast("Any", None), cast("Any", None))
        self.asked = 0

    async def kernels(self, ids: Iterable[UUID]) -> dict[UUID, dict[str, Any]]:
        self.asked += 1
        return await super().kernels(ids)

    async def agents(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        self.asked += 1
        return await super().agents(ids)


@dataclass(frozen=True)
class Place:
    superadmin: Principal
    admin: Principal
    user: Principal
    other: Principal
    monitor: Principal
    default_project: UUID
    measured: Measured


async def insert(database: Database, table: str, **values: Any) -> None:
    marks = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", *values.values())


async def add_session(database: Database, owner: Principal, project: UUID, **values: Any) -> UUID:
    row = {
        "id": uuid4(),
        "name": f"s-{uuid4().hex[:8]}",
        "access_key": owner.access_key,
        "user_id": owner.user_id,
        "domain_name": owner.domain_name,
        "project_id": project,
        "project_name": "default",
        "scaling_group": "default",
        "image": "local/python:3.11",
        "registry": "local",
        "status": "RUNNING",
        "status_changed": STARTED,
        "created_at": STARTED,
        "occupied_slots": {"cpu": "1", "mem": "1073741824"},
        **values,
    }
    await insert(database, "sessions", **row)
    await insert(
        database,
        "kernels",
        id=row["id"],
        session_id=row["id"],
        image=row["image"],
        registry="local",
        status=row["status"],
        status_changed=STARTED,
        created_at=STARTED,
        agent_id="i-local",
        container_id="c0ffee",
        occupied_slots=row["occupied_slots"],
        preopen_ports=[8080],
    )
    return row["id"]


async def _account(database: Database, email: str, role: str, domain: str) -> Principal:
    await database.execute(
        "INSERT INTO users (username, email, role, domain_name) VALUES ($1, $1, $2, $3)", email, role, domain
    )
    key = ("AKIA" + role.upper() + domain.upper() + "X" * 20)[:20]
    await database.execute(
        "INSERT INTO keypairs (access_key, secret_key, user_id, resource_policy)"
        " SELECT $1, repeat('s', 40), id, 'default' FROM users WHERE email = $2",
        key,
        email,
    )
    return await _principal(database, key)


async def _principal(database: Database, access_key: str) -> Principal:
    row = await database.fetchrow(
        "SELECT k.*, u.email, u.role, u.domain_name FROM keypairs k JOIN users u ON u.id = k.user_id"
        " WHERE access_key = $1",
        access_key,
    )
    assert row is not None
    return Principal(
        access_key=AccessKey(access_key),
        user_id=row["user_id"],
        email=row["email"],
        role=UserRole(row["role"]),
        domain_name=row["domain_name"],
        is_admin=row["is_admin"],
        resource_policy=row["resource_policy"],
        rate_limit=row["rate_limit"],
    )


@pytest.fixture
async def place(database: Database, accounts: FirstAccounts) -> Place:
    project = await database.fetchval("SELECT id FROM projects")
    await insert(database, "domains", name="other")
    await insert(database, "projects", name="elsewhere", domain_name="other")
    place = Place(
        superadmin=await _principal(database, accounts.admin_access_key),
        admin=await _account(database, "da@backendai.local", "admin", "default"),
        user=await _principal(database, accounts.access_key),
        other=await _account(database, "someone@other.local", "user", "other"),
        monitor=await _account(database, "watch@backendai.local", "monitor", "default"),
        default_project=project,
        measured=Measured(),
    )
    await insert(
        database,
        "agents",
        id="i-local",
        address="tcp://127.0.0.1:6001",
        boot_id="b",
        first_contact=STARTED,
        available_slots={"cpu": "8", "mem": str(16 << 30)},
    )
    image = uuid4()
    await insert(
        database,
        "images",
        id=image,
        canonical="local/stable/python:3.11",
        registry="local",
        name="stable/python",
        tag="3.11",
        digest="sha256:0",
        size_bytes=8 << 30,
        labels={"ai.backend.role": "COMPUTE"},
        resources={"cpu": {"min": "1", "max": None}},
    )
    await insert(database, "image_aliases", alias="python", image_id=image)
    await insert(database, "agent_images", agent_id="i-local", image_id=image)
    await add_session(
        database,
        place.user,
        project,
        id=SESSION,
        name="mine",
        status_data={"scheduler": {"retries": 0}},
        resource_opts={"shmem": "64m"},
    )
    needed = await add_session(database, place.user, project, name="needed", type="batch")
    await insert(database, "session_dependencies", session_id=SESSION, depends_on=needed)
    place.measured.heard.kernels[SESSION] = KernelStat(cpu_used=1500, cpu_util=12.5, mem=1000, mem_max=2000)
    place.measured.heard.nodes["i-local"] = NodeStat(cpu_util=12.3, mem_used=4 << 30, mem_total=16 << 30)
    return place


@pytest.fixture
def directory(database: Database, place: Place) -> DirectoryService:
    return DirectoryService(database, place.measured)


@pytest.fixture
def ask(directory: DirectoryService, place: Place) -> Ask:
    """Send a query as the superadmin, or as whom ``by`` names; answers the decoded document."""

    async def ask(
        query: str, variables: Mapping[str, Any] | None = None, *, by: Principal | None = None, **more: Any
    ) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables, **more}).encode()
        status, text, kind = await answer(directory, by or place.superadmin, body, legacy=False)
        assert (status, kind) == (200, "application/json")
        document: dict[str, Any] = json.loads(text)
        return document

    return ask
