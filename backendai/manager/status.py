"""The state of the service as administrators set and see it (contract 03 §10)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import trio

import backendai
from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.errors import InsufficientPrivilege, InvalidParameters, ObjectNotFound, ServerFrozen
from backendai.core.lifecycle import DestroyWanted, Reason
from backendai.core.notice import WorkWaits
from backendai.manager.reconciler import Reconciler
from backendai.manager.settings import ManagerSettings
from backendai.storage import agents, sessions, settings
from backendai.storage.notices import notify
from backendai.supervision.periodic import Alarm

_STATUS = "manager-status"
_ANNOUNCEMENT = "announcement"


class ManagerStatus(StrEnum):
    RUNNING = "running"
    FROZEN = "frozen"


class ManagerStatusService:
    """Status and announcement, kept in memory and refreshed when a notice says that they changed."""

    def __init__(
        self, database: Database, reconciler: Reconciler, own_settings: ManagerSettings, changed: Alarm
    ) -> None:
        self._database = database
        self._reconciler = reconciler
        self._settings = own_settings
        self._changed = changed
        self._status = ManagerStatus.RUNNING
        self._announcement: str | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with changes until cancelled."""
        await self._refresh()
        task_status.started()
        while True:
            await self._changed.wait()
            await self._refresh()

    def gate(self, *, write: bool) -> None:
        """Let a request pass; raises :class:`ServerFrozen` for one that changes things while frozen."""
        if write and self._status is ManagerStatus.FROZEN:
            raise ServerFrozen

    async def status(self) -> dict[str, Any]:
        active = await sessions.count_active(self._database)
        node = {
            "id": self._settings.process_id,
            "num_proc": 1,
            "service_addr": "",
            "heartbeat_timeout": self._settings.agent_lost_after.total_seconds(),
            "ssl_enabled": False,
            "active_sessions": active,
            "status": self._status,
            "version": backendai.__version__,
            "api_version": [6, "20220315"],
        }
        return {"nodes": [node], "status": self._status, "active_sessions": active}

    async def set_status(self, principal: Principal, status: str, force_kill: bool = False) -> None:
        """Freeze or run, spelled in any case; ``force_kill`` with freezing ends every session."""
        _require_superadmin(principal)
        try:
            wanted = ManagerStatus(status.lower())
        except ValueError:
            raise InvalidParameters.of({"status": "must be running or frozen"}) from None
        async with self._database.transaction() as connection:
            await settings.write(connection, _STATUS, wanted)
        self._status = wanted
        if wanted is ManagerStatus.FROZEN and force_kill:
            for session_id in await sessions.live_ids(self._database):
                await self._reconciler.apply(
                    session_id, DestroyWanted(Reason.FROZEN, forced=True), whole_session=True
                )

    async def announcement(self) -> dict[str, Any]:
        return {"enabled": self._announcement is not None, "message": self._announcement or ""}

    async def set_announcement(self, principal: Principal, enabled: bool, message: str | None) -> None:
        _require_superadmin(principal)
        if enabled and not message:
            raise InvalidParameters.of({"message": "must not be empty"})
        async with self._database.transaction() as connection:
            await settings.write(connection, _ANNOUNCEMENT, message if enabled else None)
        self._announcement = message if enabled else None

    async def include_agents(self, principal: Principal, ids: Sequence[str], include: bool) -> None:
        """Let these agents get new sessions, or not. Raises :class:`ObjectNotFound` if one is unknown."""
        _require_superadmin(principal)
        async with self._database.transaction() as connection:
            unknown = await agents.set_schedulable(connection, ids, include)
            if unknown:
                raise ObjectNotFound("agent instance", f"Unknown agents: {', '.join(unknown)}")
            await notify(connection, WorkWaits())

    async def _refresh(self) -> None:
        values = await settings.read(self._database, _STATUS, _ANNOUNCEMENT)
        self._status = ManagerStatus(values.get(_STATUS, ManagerStatus.RUNNING))
        self._announcement = values.get(_ANNOUNCEMENT)


def _require_superadmin(principal: Principal) -> None:
    if not principal.is_superadmin:
        raise InsufficientPrivilege
