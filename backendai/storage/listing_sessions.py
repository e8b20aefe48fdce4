"""Lists of sessions and of their kernels ("containers" in the API)."""

from __future__ import annotations

from backendai.storage.listing import Column, Kind, Link, Listing

_TYPES = {"INTERACTIVE": "interactive", "BATCH": "batch"}
_MODES = {"SINGLE_NODE": "single-node", "MULTI_NODE": "multi-node"}
_RESULTS = {"UNDEFINED": "undefined", "SUCCESS": "success", "FAILURE": "failure"}

_EMAIL = "(SELECT u.email FROM users u WHERE u.id = s.user_id)"
_MAIN_AGENT = "(SELECT k.agent_id FROM kernels k WHERE k.id = s.id)"
#: GREATEST passes over nulls.
_NEWEST = "GREATEST({0}.created_at, {0}.terminated_at, {0}.status_changed) DESC"

_SESSION_COLUMNS = {
    "type": Column("s.type", names=_TYPES),
    "name": Column("s.name"),
    "image": Column("s.image"),
    "architecture": Column("s.architecture"),
    "domain_name": Column("s.domain_name"),
    "group_name": Column("s.project_name"),
    "user_email": Column(_EMAIL),
    "access_key": Column("s.access_key"),
    "scaling_group": Column("s.scaling_group"),
    "cluster_mode": Column("s.cluster_mode", names=_MODES),
    "cluster_template": Column("NULL::text"),
    "cluster_size": Column("s.cluster_size", Kind.NUMBER),
    "status": Column("s.status"),
    "status_info": Column("s.status_info"),
    "status_changed": Column("s.status_changed", Kind.TIME),
    "result": Column("s.result", names=_RESULTS),
    "created_at": Column("s.created_at", Kind.TIME),
    "terminated_at": Column("s.terminated_at", Kind.TIME),
    "starts_at": Column("s.starts_at", Kind.TIME),
}

SESSIONS = Listing(
    source="sessions s",
    key="s.id",
    order=_NEWEST.format("s"),
    conditions={
        "id": "s.id = {0}::uuid",
        "domain": "s.domain_name = {0}",
        "project": "s.project_id = {0}::uuid",
        "access_key": "s.access_key = {0}",
        "statuses": "s.status = ANY({0}::text[])",
    },
    fields={
        "id": "s.id::text",
        "session_id": "s.id::text",
        # The main kernel has the UUID of its session.
        "main_kernel_id": "s.id::text",
        "tag": "s.tag",
        "name": "s.name",
        "type": "upper(s.type)",
        "priority": "s.priority",
        "image": "s.image",
        "architecture": "s.architecture",
        "registry": "s.registry",
        "cluster_template": "NULL::text",
        "cluster_mode": "s.cluster_mode",
        "cluster_size": "s.cluster_size",
        "domain_name": "s.domain_name",
        "group_name": "s.project_name",
        "group_id": "s.project_id::text",
        "user_email": _EMAIL,
        "user_id": "s.user_id::text",
        "access_key": "s.access_key",
        "created_user_email": "NULL::text",
        "created_user_id": "NULL::text",
        "status": "s.status",
        "status_changed": "s.status_changed",
        "status_info": "s.status_info",
        "status_data": "s.status_data::text",
        "created_at": "s.created_at",
        "terminated_at": "s.terminated_at",
        "starts_at": "s.starts_at",
        "scheduled_at": "s.scheduled_at",
        "startup_command": "s.startup_command",
        "result": "upper(s.result)",
        "resource_opts": "s.resource_opts::text",
        "scaling_group": "s.scaling_group",
        "agent_ids": (
            "ARRAY(SELECT DISTINCT k.agent_id FROM kernels k"
            " WHERE k.session_id = s.id AND k.agent_id IS NOT NULL ORDER BY k.agent_id)"
        ),
        "service_ports": "(SELECT k.service_ports::text FROM kernels k WHERE k.id = s.id)",
        "mounts": "s.mounts",
        "occupied_slots": "s.occupied_slots::text",
        "occupying_slots": "s.occupied_slots::text",
        "num_queries": "s.num_queries",
        # No idle checkers and no abuse reports exist; clients expect the empty forms.
        "idle_checks": "'{}'",
        "abusing_reports": "'{}'::text[]",
    },
    filters={
        **_SESSION_COLUMNS,
        "startup_command": Column("s.startup_command"),
        "agent": Column(_MAIN_AGENT),
        "agents": Column(_MAIN_AGENT),
        "id": Column("s.id", Kind.UUID),
    },
    orders={"id": "s.id", **{name: column.sql for name, column in _SESSION_COLUMNS.items()}},
)

_KERNEL_COLUMNS = {
    "image": Column("k.image"),
    "architecture": Column("k.architecture"),
    "agent": Column("k.agent_id"),
    "cluster_idx": Column("k.cluster_idx", Kind.NUMBER),
    "cluster_role": Column("k.cluster_role"),
    "cluster_hostname": Column("k.cluster_hostname"),
    "status": Column("k.status"),
    "status_info": Column("k.status_info"),
    "created_at": Column("k.created_at", Kind.TIME),
    "status_changed": Column("k.status_changed", Kind.TIME),
    "terminated_at": Column("k.terminated_at", Kind.TIME),
}

_OWNER = "EXISTS (SELECT FROM sessions s WHERE s.id = k.session_id AND {0})"

KERNELS = Listing(
    source="kernels k",
    key="k.id",
    order=_NEWEST.format("k"),
    conditions={
        "id": "k.id = {0}::uuid",
        "session": "k.session_id = {0}::uuid",
        "role": "k.cluster_role = {0}",
        "statuses": "k.status = ANY({0}::text[])",
        "domain": _OWNER.format("s.domain_name = {0}"),
        "project": _OWNER.format("s.project_id = {0}::uuid"),
        "access_key": _OWNER.format("s.access_key = {0}"),
    },
    fields={
        "id": "k.id::text",
        "idx": "k.cluster_idx",
        "role": "k.cluster_role",
        "hostname": "k.cluster_hostname",
        "cluster_idx": "k.cluster_idx",
        "cluster_role": "k.cluster_role",
        "cluster_hostname": "k.cluster_hostname",
        "session_id": "k.session_id::text",
        "image": "k.image",
        "architecture": "k.architecture",
        "registry": "k.registry",
        "status": "k.status",
        "status_changed": "k.status_changed",
        "status_info": "k.status_info",
        "status_data": "k.status_data::text",
        "created_at": "k.created_at",
        "terminated_at": "k.terminated_at",
        "starts_at": "(SELECT s.starts_at FROM sessions s WHERE s.id = k.session_id)",
        "agent": "k.agent_id",
        "container_id": "k.container_id",
        "resource_opts": "k.resource_opts::text",
        "occupied_slots": "k.occupied_slots::text",
        #: The last measurement that was written down; a live kernel's newest one is in Redis.
        "last_stat": "k.last_stat",
        "preopen_ports": "k.preopen_ports",
    },
    filters=_KERNEL_COLUMNS,
    orders={name: column.sql for name, column in _KERNEL_COLUMNS.items()},
)

KERNELS_OF_SESSION = Link("kernels k", "k.session_id", "uuid", "k.cluster_role <> 'main', k.cluster_idx")
KERNELS_OF_AGENT = Link("kernels k", "k.agent_id", "text", "k.created_at DESC")
DEPENDENCIES_OF_SESSION = Link(
    "session_dependencies d JOIN sessions s ON s.id = d.depends_on", "d.session_id", "uuid", "s.created_at"
)
SESSIONS_OF_KEYPAIR = Link("sessions s", "s.access_key", "text", "s.created_at DESC")
