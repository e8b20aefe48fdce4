"""Looking up agents, images and scaling groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from backendai.core.account import Principal, UserRole
from backendai.core.errors import ObjectNotFound
from backendai.core.query import Selection
from backendai.manager.directory_records import Kind, LiveStatistics, Paging, RecordReader, Related
from backendai.manager.directory_scope import require_superadmin, unknown_role, uuid_text
from backendai.manager.directory_sessions import KERNEL, with_status
from backendai.storage.listing import KEY, Record
from backendai.storage.listing_fleet import AGENTS, IMAGES, SCALING_GROUPS
from backendai.storage.listing_sessions import KERNELS_OF_AGENT

#: What is shown of an agent that has not been heard lately: clients crash on null.
_UNKNOWN: Mapping[str, Any] = {"node": {}, "devices": {}}


async def _fill_presence(live: LiveStatistics, rows: Sequence[Record]) -> None:
    newest = await live.agents([row[KEY] for row in rows])
    for row in rows:
        stat = newest.get(row[KEY], _UNKNOWN)
        node = stat["node"]
        row["live_stat"] = json.dumps(stat)
        row["cpu_cur_pct"] = float(node["cpu_util"]["pct"]) if "cpu_util" in node else 0.0
        row["mem_cur_bytes"] = int(node["mem"]["current"]) if "mem" in node else 0


AGENT = Kind(
    AGENTS,
    relations={"compute_containers": Related(KERNEL, KERNELS_OF_AGENT, conditions=with_status)},
    live_fields=frozenset({"live_stat", "cpu_cur_pct", "mem_cur_bytes"}),
    fill=_fill_presence,
)
IMAGE = Kind(IMAGES)
SCALING_GROUP = Kind(SCALING_GROUPS)


class FleetDirectory:
    """Methods are named like the root fields that ask them; ``wanted`` is what is selected of the answer."""

    def __init__(self, records: RecordReader) -> None:
        self._records = records

    async def agent(self, asker: Principal, wanted: Selection, *, agent_id: str) -> Record | None:
        require_superadmin(asker)
        return await self._records.one(AGENT, wanted, {"id": agent_id})

    async def agents(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        scaling_group: str | None = None,
        status: str | None = None,
    ) -> list[Record]:
        require_superadmin(asker)
        return await self._records.array(AGENT, wanted, {"scaling_group": scaling_group, "status": status})

    async def agent_list(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        scaling_group: str | None = None,
        status: str | None = None,
        **paging: Unpack[Paging],
    ) -> Record:
        require_superadmin(asker)
        where = {"scaling_group": scaling_group, "status": status}
        return await self._records.page(AGENT, wanted, where, paging)

    async def image(
        self, asker: Principal, wanted: Selection, *, reference: str, architecture: str | None = None
    ) -> Record:
        """Any architecture when none is given. Raises :class:`ObjectNotFound`."""
        where = {**_images(asker), "reference": reference, "architecture": architecture}
        found = await self._records.one(IMAGE, wanted, where)
        if found is None:
            raise ObjectNotFound("environment image", reference)
        return found

    async def images(
        self,
        asker: Principal,
        wanted: Selection,
        *,
        is_installed: bool | None = None,
        is_operation: bool | None = None,
    ) -> list[Record]:
        """``is_operation`` narrows only when true: clients send false and expect everything."""
        where = {**_images(asker), "installed": is_installed, "operation": is_operation or None}
        return await self._records.array(IMAGE, wanted, where)

    async def scaling_group(
        self, asker: Principal, wanted: Selection, *, name: str | None = None
    ) -> Record | None:
        require_superadmin(asker)
        return await self._records.one(SCALING_GROUP, wanted, {"name": name or ""})

    async def scaling_groups(
        self, asker: Principal, wanted: Selection, *, name: str | None = None, is_active: bool | None = None
    ) -> list[Record]:
        return await self._scaling_groups(asker, wanted, {"name": name, "active": is_active})

    async def scaling_groups_for_domain(
        self, asker: Principal, wanted: Selection, *, domain: str, is_active: bool | None = None
    ) -> list[Record]:
        return await self._scaling_groups(asker, wanted, {"of_domain": domain, "active": is_active})

    async def scaling_groups_for_user_group(
        self, asker: Principal, wanted: Selection, *, user_group: str, is_active: bool | None = None
    ) -> list[Record]:
        where = {"of_project": uuid_text(user_group), "active": is_active}
        return await self._scaling_groups(asker, wanted, where)

    async def scaling_groups_for_keypair(
        self, asker: Principal, wanted: Selection, *, access_key: str, is_active: bool | None = None
    ) -> list[Record]:
        return await self._scaling_groups(asker, wanted, {"of_keypair": access_key, "active": is_active})

    async def _scaling_groups(
        self, asker: Principal, wanted: Selection, where: dict[str, Any]
    ) -> list[Record]:
        require_superadmin(asker)
        return await self._records.array(SCALING_GROUP, wanted, where)


def _images(asker: Principal) -> dict[str, Any]:
    """Images in use, for all but superadmins only those of registries that their domain allows."""
    match asker.role:
        case UserRole.SUPERADMIN:
            return {"active": True}
        case UserRole.ADMIN | UserRole.USER:
            return {"active": True, "domain": asker.domain_name}
    raise unknown_role()
