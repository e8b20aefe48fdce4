"""Lists of users, key pairs, resource policies, domains and projects ("groups" in the API)."""

from __future__ import annotations

from dataclasses import replace

from backendai.core.session import SessionStatus
from backendai.storage.listing import Column, Kind, Listing

_USER_STATUSES = {
    "ACTIVE": "active",
    "INACTIVE": "inactive",
    "DELETED": "deleted",
    "BEFORE_VERIFICATION": "before-verification",
}
_ROLES = {"SUPERADMIN": "superadmin", "ADMIN": "admin", "USER": "user", "MONITOR": "monitor"}
_OCCUPYING = ", ".join(
    f"'{status}'"
    for status in (
        SessionStatus.SCHEDULED,
        SessionStatus.PREPARING,
        SessionStatus.PULLING,
        SessionStatus.RUNNING,
        SessionStatus.RESTARTING,
        SessionStatus.TERMINATING,
    )
)

_USER_COLUMNS = {
    "uuid": Column("u.id", Kind.UUID),
    "username": Column("u.username"),
    "email": Column("u.email"),
    "need_password_change": Column("u.need_password_change", Kind.BOOLEAN),
    "full_name": Column("u.full_name"),
    "is_active": Column("(u.status = 'active')", Kind.BOOLEAN),
    "status": Column("u.status", names=_USER_STATUSES),
    "status_info": Column("u.status_info"),
    "created_at": Column("u.created_at", Kind.TIME),
    "modified_at": Column("u.modified_at", Kind.TIME),
    "domain_name": Column("u.domain_name"),
    "role": Column("u.role", names=_ROLES),
}

USERS = Listing(
    source="users u",
    key="u.id",
    order="u.created_at DESC",
    conditions={
        "id": "u.id = {0}::uuid",
        "email": "u.email = {0}",
        "domain": "u.domain_name = {0}",
        "project": "u.id IN (SELECT user_id FROM memberships WHERE project_id = {0}::uuid)",
        "active": "(u.status = 'active') = {0}",
        "status": "u.status = {0}",
    },
    fields={
        "id": "u.id::text",
        "uuid": "u.id::text",
        "username": "u.username",
        "email": "u.email",
        "need_password_change": "u.need_password_change",
        "full_name": "u.full_name",
        "description": "u.description",
        "is_active": "(u.status = 'active')",
        "status": "u.status",
        "status_info": "u.status_info",
        "created_at": "u.created_at",
        "modified_at": "u.modified_at",
        "domain_name": "u.domain_name",
        "role": "u.role",
        "groups": (
            "(SELECT COALESCE(jsonb_agg(jsonb_build_object('id', p.id, 'name', p.name) ORDER BY p.name),"
            " '[]') FROM memberships m JOIN projects p ON p.id = m.project_id WHERE m.user_id = u.id)"
        ),
        "allowed_client_ip": "u.allowed_client_ip",
        # Neither exists in this service.
        "totp_activated": "FALSE",
        "sudo_session_enabled": "FALSE",
        "main_access_key": (
            "(SELECT k.access_key FROM keypairs k WHERE k.user_id = u.id AND k.is_active"
            " ORDER BY k.created_at, k.access_key LIMIT 1)"
        ),
    },
    filters={**_USER_COLUMNS, "description": Column("u.description")},
    orders={name: column.sql for name, column in _USER_COLUMNS.items()},
)

_KEYPAIR_COLUMNS = {
    "access_key": Column("k.access_key"),
    "email": Column("u.email"),
    "full_name": Column("u.full_name"),
    "is_active": Column("k.is_active", Kind.BOOLEAN),
    "is_admin": Column("k.is_admin", Kind.BOOLEAN),
    "resource_policy": Column("k.resource_policy"),
    "created_at": Column("k.created_at", Kind.TIME),
    "last_used": Column("k.last_used", Kind.TIME),
    "rate_limit": Column("k.rate_limit", Kind.NUMBER),
    "num_queries": Column("k.num_queries", Kind.NUMBER),
}

KEYPAIRS = Listing(
    source="keypairs k JOIN users u ON u.id = k.user_id",
    key="k.access_key",
    order="k.created_at DESC",
    conditions={
        "access_key": "k.access_key = {0}",
        "email": "u.email = {0}",
        "domain": "u.domain_name = {0}",
        "active": "k.is_active = {0}",
    },
    fields={
        "id": "k.access_key",
        # An e-mail address, whatever the name says.
        "user_id": "u.email",
        "full_name": "u.full_name",
        "access_key": "k.access_key",
        "secret_key": "k.secret_key",
        "is_active": "k.is_active",
        "is_admin": "k.is_admin",
        "resource_policy": "k.resource_policy",
        "created_at": "k.created_at",
        "last_used": "k.last_used",
        "rate_limit": "k.rate_limit",
        "num_queries": "k.num_queries",
        "user": "k.user_id::text",
        "projects": (
            "ARRAY(SELECT p.name FROM memberships m JOIN projects p ON p.id = m.project_id"
            " WHERE m.user_id = k.user_id ORDER BY p.name)"
        ),
        "ssh_public_key": "k.ssh_public_key",
        "concurrency_used": (
            "(SELECT count(*) FROM sessions s WHERE s.access_key = k.access_key"  # noqa: S608
            f" AND s.status IN ({_OCCUPYING}))"
        ),
        "concurrency_limit": "0",
        "user_info": "jsonb_build_object('email', u.email, 'full_name', u.full_name)",
    },
    filters={
        **_KEYPAIR_COLUMNS,
        "user_id": Column("k.user_id", Kind.UUID),
        "ssh_public_key": Column("k.ssh_public_key"),
    },
    orders={name: column.sql for name, column in _KEYPAIR_COLUMNS.items()},
)

#: The same list without the secret keys of superadmins.
KEYPAIRS_WITHOUT_SUPERIORS = replace(
    KEYPAIRS,
    fields={
        **KEYPAIRS.fields,
        "secret_key": "CASE WHEN u.role <> 'superadmin' THEN k.secret_key END",
    },
)

POLICIES = Listing(
    source="keypair_resource_policies r",
    key="r.name",
    order="r.name",
    conditions={
        "name": "r.name = {0}",
        "user": "r.name IN (SELECT resource_policy FROM keypairs WHERE user_id = {0}::uuid)",
    },
    fields={
        "name": "r.name",
        "created_at": "r.created_at",
        "default_for_unspecified": "r.default_for_unspecified",
        "total_resource_slots": "r.total_resource_slots::text",
        "max_session_lifetime": "r.max_session_lifetime",
        "max_concurrent_sessions": "r.max_concurrent_sessions",
        "max_containers_per_session": "r.max_containers_per_session",
        "idle_timeout": "r.idle_timeout",
        "max_vfolder_count": "r.max_vfolder_count",
        "max_vfolder_size": "r.max_vfolder_size",
        "allowed_vfolder_hosts": "r.allowed_vfolder_hosts",
        "max_concurrent_sftp_sessions": "r.max_concurrent_sftp_sessions",
        "max_pending_session_count": "r.max_pending_session_count",
        "max_pending_session_resource_slots": "r.max_pending_session_resource_slots::text",
    },
)

DOMAINS = Listing(
    source="domains d",
    key="d.name",
    order="d.name",
    conditions={"name": "d.name = {0}", "active": "d.is_active = {0}"},
    fields={
        "name": "d.name",
        "description": "d.description",
        "is_active": "d.is_active",
        "created_at": "d.created_at",
        "modified_at": "d.modified_at",
        "total_resource_slots": "d.total_resource_slots::text",
        "allowed_vfolder_hosts": "d.allowed_vfolder_hosts",
        "allowed_docker_registries": "d.allowed_docker_registries",
        "integration_id": "d.integration_id",
        "scaling_groups": (
            "ARRAY(SELECT g.scaling_group FROM scaling_group_domains g"
            " WHERE g.domain_name = d.name ORDER BY g.scaling_group)"
        ),
    },
)

PROJECTS = Listing(
    source="projects p",
    key="p.id",
    order="p.domain_name, p.name",
    conditions={
        "id": "p.id = {0}::uuid",
        "name": "p.name = {0}",
        "domain": "p.domain_name = {0}",
        "active": "p.is_active = {0}",
        "member": "p.id IN (SELECT project_id FROM memberships WHERE user_id = {0}::uuid)",
    },
    fields={
        "id": "p.id::text",
        "name": "p.name",
        "description": "p.description",
        "is_active": "p.is_active",
        "created_at": "p.created_at",
        "modified_at": "p.modified_at",
        "domain_name": "p.domain_name",
        "total_resource_slots": "p.total_resource_slots::text",
        "allowed_vfolder_hosts": "p.allowed_vfolder_hosts",
        "integration_id": "p.integration_id",
        "scaling_groups": (
            "ARRAY(SELECT g.scaling_group FROM scaling_group_projects g"
            " WHERE g.project_id = p.id ORDER BY g.scaling_group)"
        ),
    },
)
