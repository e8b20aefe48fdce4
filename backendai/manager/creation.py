"""The rules for a new session, in the order and words of contract 02 §2.3, and its entry into the book."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from backendai.bridges.postgres import Database
from backendai.core.account import Principal, UserRole
from backendai.core.addresses import Network, why_forbidden
from backendai.core.errors import (
    BadRequest,
    InsufficientPrivilege,
    InvalidParameters,
    ObjectNotFound,
    QuotaExceeded,
    SessionAlreadyExists,
)
from backendai.core.ids import new_session_id
from backendai.core.lifecycle import Deadlines, enqueued
from backendai.core.notice import SessionChanged
from backendai.core.quota import granted_slots
from backendai.core.session import ClusterMode, SessionEvent, SessionStatus, SessionType, SessionWish
from backendai.core.slots import Slots, add, format_slots
from backendai.manager.image_service import ImageService
from backendai.manager.posting import parse_place
from backendai.storage import agents as agent_store
from backendai.storage import creation as store
from backendai.storage import sessions as session_store
from backendai.storage.creation import Standing
from backendai.storage.images import ImageRecord
from backendai.storage.sessions import Found

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{2,62})[A-Za-z0-9_]", re.ASCII)
_RESERVED_NAMES = frozenset({"from-template"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A session that is ready to be entered."""

    session_id: UUID
    session: Mapping[str, Any]
    kernels: Sequence[Mapping[str, Any]]
    depends_on: Sequence[UUID]
    enqueued: SessionChanged


def check_name(name: str) -> None:
    """Raises :class:`InvalidParameters` for what cannot be the name of a session."""
    if not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
        raise InvalidParameters.of(
            {
                "name": "must have 4 to 64 letters, digits, '_', '-' or '.', "
                "and begin and end with none of '-' and '.'"
            }
        )


class SessionCreation:
    """Checks a wish against the rights of its owner and makes the rows of it. Enters nothing itself."""

    def __init__(
        self,
        database: Database,
        images: ImageService,
        deadlines: Deadlines,
        callback_networks: Sequence[Network] = (),
    ) -> None:
        self._database = database
        self._images = images
        self._deadlines = deadlines
        self._callback_networks = callback_networks

    async def prepare(
        self, requester: Principal, owner: Principal, wish: SessionWish, now: datetime
    ) -> Entry | Found:
        """What to enter, or the live session of that name, to be used again.

        Raises the refusals of contract 02 §2.3.
        """
        check_name(wish.name)
        if _has_nul(msgspec.to_builtins(wish)):
            raise InvalidParameters("Text must not contain NUL characters.")
        if wish.agent_list:
            await self._check_agents(requester, wish)
        standing = await store.standing(
            self._database, owner.access_key, owner.user_id, wish.domain, wish.project
        )
        image = await self._images.resolve(wish.image, wish.architecture, standing.registries)
        existing = await session_store.find_by_name(self._database, owner.access_key, wish.name)
        if existing is not None:
            return reusable(existing, wish, image.canonical)
        _check_batch(wish)
        _check_callback(wish, self._callback_networks)
        project_id = _check_membership(owner, wish, standing)
        if wish.cluster_size > standing.max_containers:
            raise QuotaExceeded(
                f"You cannot create session with more than {standing.max_containers} containers."
            )
        scaling_group = _choose_scaling_group(wish, standing)
        if wish.mounts or wish.mount_map:
            named = ", ".join((*wish.mounts, *wish.mount_map))
            raise ObjectNotFound("virtual folder", f"This installation has no folders yet: {named[:200]}")
        slots = [granted_slots(wish.resources, wish.resource_opts, image.resources)]
        others = wish.resources if wish.sub_resources is None else wish.sub_resources
        slots += [granted_slots(others, wish.resource_opts, image.resources)] * (wish.cluster_size - 1)
        depends_on = await self._dependencies(owner, wish)
        return self._entry(owner, wish, standing, image, project_id, scaling_group, slots, depends_on, now)

    async def _check_agents(self, requester: Principal, wish: SessionWish) -> None:
        if not requester.is_superadmin:
            raise InsufficientPrivilege("You are not allowed to choose agents.")
        expected = wish.cluster_size if wish.cluster_mode is ClusterMode.MULTI_NODE else 1
        if len(wish.agent_list) != expected:
            raise InvalidParameters.of({"agentList": f"must have {expected} items"})
        unknown = set(wish.agent_list) - await agent_store.known(self._database, wish.agent_list)
        if unknown:
            raise InvalidParameters(f"No such agent: {min(unknown)}")

    async def _dependencies(self, owner: Principal, wish: SessionWish) -> list[UUID]:
        if not wish.dependencies:
            return []
        found = await session_store.find_ids(self._database, owner.access_key, wish.dependencies)
        for reference in wish.dependencies:
            if reference not in found:
                raise InvalidParameters(
                    "Unknown session ID or name in the dependency list", data={"session_ref": reference}
                )
        return list(dict.fromkeys(found.values()))

    def _entry(
        self,
        owner: Principal,
        wish: SessionWish,
        standing: Standing,
        image: ImageRecord,
        project_id: UUID,
        scaling_group: str,
        slots: Sequence[Slots],
        depends_on: list[UUID],
        now: datetime,
    ) -> Entry:
        session_id = new_session_id()
        state = enqueued(now, self._deadlines, wish.starts_at)
        script = wish.bootstrap_script
        if script is None and wish.type is SessionType.INTERACTIVE:
            script = standing.bootstrap_script
        shared = {
            "image": image.canonical,
            "architecture": image.architecture,
            "registry": image.registry,
            "status": state.status,
            "status_changed": now,
            "created_at": now,
            "resource_opts": wish.resource_opts,
            "preopen_ports": wish.preopen_ports,
        }
        session = {
            **shared,
            "id": session_id,
            "name": wish.name,
            "type": wish.type,
            "access_key": owner.access_key,
            "user_id": owner.user_id,
            "domain_name": wish.domain,
            "project_id": project_id,
            "project_name": wish.project,
            "scaling_group": scaling_group,
            "tag": wish.tag,
            "cluster_mode": wish.cluster_mode,
            "cluster_size": wish.cluster_size,
            "priority": wish.priority,
            "requested_slots": format_slots(add(*slots)),
            "environ": wish.environ,
            "mounts": wish.mounts,
            "mount_map": wish.mount_map,
            "agent_list": wish.agent_list,
            "startup_command": wish.startup_command,
            "bootstrap_script": script,
            "callback_url": wish.callback_url,
            "batch_timeout": wish.batch_timeout,
            "network": standing.allow_network,
            "starts_at": wish.starts_at,
        }
        kernels = [
            {
                **shared,
                "id": session_id if number == 0 else new_session_id(),
                "session_id": session_id,
                "cluster_role": "sub" if number else "main",
                "cluster_idx": number or 1,
                "cluster_hostname": f"sub{number}" if number else "main1",
                "deadline": state.deadline,
                "requested_slots": format_slots(slots[number]),
            }
            for number in range(wish.cluster_size)
        ]
        event = SessionEvent(
            name="session_enqueued",
            session_id=session_id,
            session_name=wish.name,
            access_key=owner.access_key,
            user_id=owner.user_id,
            domain_name=wish.domain,
            project_id=project_id,
            kernel_id=session_id,
        )
        notice = SessionChanged(event=event, status=SessionStatus.PENDING)
        return Entry(session_id, session, kernels, depends_on, notice)


def reusable(existing: Found, wish: SessionWish, canonical: str) -> Found:
    """The live session of that name, if it may be used again. Raises :class:`SessionAlreadyExists`."""
    record = existing.record
    if not wish.reuse or record.image != canonical:
        raise SessionAlreadyExists(data={"existingSessionId": str(record.session_id)})
    return existing


def _has_nul(value: object) -> bool:
    """PostgreSQL keeps any text but that."""
    match value:
        case str():
            return "\0" in value
        case dict():
            return any(_has_nul(part) for pair in value.items() for part in pair)
        case list() | tuple():
            return any(map(_has_nul, value))
    return False


def _check_batch(wish: SessionWish) -> None:
    if wish.type is SessionType.BATCH and not wish.startup_command:
        raise InvalidParameters("Batch sessions must have a non-empty startup command.")
    if wish.type is not SessionType.BATCH and wish.starts_at is not None:
        raise InvalidParameters("Parameter starts_at should be used only for batch sessions")
    if wish.type is not SessionType.BATCH and wish.batch_timeout is not None:
        raise InvalidParameters("Parameter batch_timeout should be used only for batch sessions")


def _check_callback(wish: SessionWish, allowed: Sequence[Network]) -> None:
    """What can be told of the URL without asking for its host, which is done at each delivery."""
    if wish.callback_url is None:
        return
    try:
        host = parse_place(wish.callback_url).host
    except ValueError as error:
        raise InvalidParameters.of({"callback_url": str(error)}) from None
    try:
        forbidden = why_forbidden(host, allowed)
    except ValueError:
        return  # a name
    if forbidden:
        raise InvalidParameters.of({"callback_url": f"must not lead to an address that is {forbidden}"})


def _check_membership(owner: Principal, wish: SessionWish, standing: Standing) -> UUID:
    if not standing.domain_exists:
        raise BadRequest("Invalid domain")
    if wish.domain != owner.domain_name and not owner.is_superadmin:
        raise BadRequest("You can only set the domain to your domain.")
    admits = owner.is_superadmin or owner.role is UserRole.ADMIN or standing.is_member
    if standing.project_id is None or not admits:
        raise BadRequest("Invalid group")
    return standing.project_id


def _choose_scaling_group(wish: SessionWish, standing: Standing) -> str:
    allowed = standing.scaling_groups
    if not allowed:
        raise ObjectNotFound("scaling group", "You have no scaling groups allowed to use.")
    if wish.scaling_group is None:
        return allowed[0]
    if wish.scaling_group not in allowed:
        raise ObjectNotFound("scaling group", f"The scaling group {wish.scaling_group} is not allowed.")
    return wish.scaling_group
