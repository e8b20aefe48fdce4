"""Sessions and kernels: statuses, the wish a user states, the records the manager answers with.

The life cycle itself (which event moves which status where) is in ``core.lifecycle``.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from backendai.core.kernel import KernelStat


class SessionStatus(StrEnum):
    """Status of a session and of each of its kernels, by the names the API shows (contract 01 §12)."""

    PENDING = "PENDING"
    SCHEDULED = "SCHEDULED"
    PREPARING = "PREPARING"
    PULLING = "PULLING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"


#: Nothing will happen to these any more by themselves; ERROR still waits for a forced destroy.
DEAD = frozenset({SessionStatus.TERMINATED, SessionStatus.CANCELLED})


class SessionType(StrEnum):
    INTERACTIVE = "interactive"
    BATCH = "batch"


class SessionResult(StrEnum):
    UNDEFINED = "undefined"
    SUCCESS = "success"
    FAILURE = "failure"


class ClusterMode(StrEnum):
    SINGLE_NODE = "single-node"
    MULTI_NODE = "multi-node"


class SessionWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for, parsed and with aliases resolved but not yet checked against any account."""

    name: str
    image: str
    architecture: str = "x86_64"
    type: SessionType = SessionType.INTERACTIVE
    project: str = "default"
    domain: str = "default"
    cluster_size: int = 1
    cluster_mode: ClusterMode = ClusterMode.SINGLE_NODE
    tag: str | None = None
    enqueue_only: bool = False
    #: Seconds the caller is ready to wait for RUNNING; 0 waits without limit.
    max_wait: float = 0
    starts_at: datetime | None = None
    reuse: bool = True
    startup_command: str | None = None
    bootstrap_script: str | None = None
    dependencies: tuple[str, ...] = ()
    callback_url: str | None = None
    priority: int = 0
    batch_timeout: float | None = None
    # -- config
    mounts: tuple[str, ...] = ()
    mount_map: dict[str, str] = {}
    environ: dict[str, str] = {}
    scaling_group: str | None = None
    #: Slot name to amount as the client wrote it ("2", "1g", 0.5).
    resources: dict[str, Any] = {}
    #: The same for each kernel but the main one; None is as the main one's.
    sub_resources: dict[str, Any] | None = None
    resource_opts: dict[str, Any] = {}
    preopen_ports: tuple[int, ...] = ()
    agent_list: tuple[str, ...] = ()


class Idempotency(msgspec.Struct, frozen=True, kw_only=True):
    """What a client calls a request, so that sending it again does nothing new."""

    #: Chosen by the client.
    key: str
    #: Tells requests with different contents apart.
    fingerprint: str


class SessionCreated(msgspec.Struct, frozen=True, kw_only=True):
    """``created`` is False when a live session of that name was reused; ``status`` may be ``TIMEOUT``."""

    session_id: UUID
    name: str
    status: str
    service_ports: tuple[dict[str, Any], ...] = ()
    created: bool = True


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session with its main kernel, for ``GET /session/{s}``. Slots are decimals, memory in bytes."""

    session_id: UUID
    name: str
    type: SessionType
    status: SessionStatus
    status_info: str | None
    status_data: dict[str, Any] | None
    status_changed: datetime
    result: SessionResult
    access_key: str
    user_id: UUID
    domain_name: str
    project_id: UUID
    project_name: str
    scaling_group: str | None
    image: str
    architecture: str
    registry: str
    tag: str | None
    agent_id: str | None
    container_id: str | None
    cluster_size: int
    cluster_mode: ClusterMode
    requested_slots: dict[str, str]
    occupied_slots: dict[str, str]
    environ: dict[str, str]
    created_at: datetime
    terminated_at: datetime | None
    num_queries: int
    service_ports: tuple[dict[str, Any], ...] = ()
    isolation: dict[str, str] = {}
    last_stat: KernelStat | None = None


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/events/session`` (contract 03 §7), with what is needed to decide who may see it."""

    #: Its number, growing in the order in which events came true; given when it is written down.
    id: int = 0
    #: ``session_started``, ``kernel_terminated``, ...
    name: str
    session_id: UUID
    session_name: str
    access_key: str
    user_id: UUID
    domain_name: str
    project_id: UUID
    reason: str = ""
    kernel_id: UUID | None = None
    cluster_role: str = "main"
    cluster_idx: int = 1
    exit_code: int | None = None
