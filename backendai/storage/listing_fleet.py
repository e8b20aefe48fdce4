"""Lists of agents, images and scaling groups."""

from __future__ import annotations

from backendai.storage.listing import Column, Kind, Listing

#: What is in use on an agent is the sum of its open allocations.
_IN_USE = (
    "(SELECT sum(al.amount) FROM allocations al"
    " WHERE al.agent_id = a.id AND al.ended_at IS NULL AND al.slot = '{0}')"
)
_OCCUPIED = """(
    SELECT COALESCE(jsonb_object_agg(slots.slot, trim_scale(COALESCE(used.amount, 0))::text), '{}')
    FROM jsonb_object_keys(a.available_slots) slots (slot) LEFT JOIN (
        SELECT al.slot, sum(al.amount) AS amount FROM allocations al
        WHERE al.agent_id = a.id AND al.ended_at IS NULL GROUP BY al.slot
    ) used ON used.slot = slots.slot)"""
_ALIVE_HOLDERS = (
    "FROM agent_images ai JOIN agents a ON a.id = ai.agent_id AND a.status = 'ALIVE' WHERE ai.image_id = i.id"
)


def _cores(slot: str) -> str:
    return f"COALESCE((a.available_slots ->> '{slot}')::float8, 0)"


def _used(slot: str) -> str:
    return f"COALESCE({_IN_USE.format(slot)}, 0)::float8"


_AGENT_COLUMNS = {
    "id": Column("a.id"),
    "status": Column("a.status", names={n: n for n in ("ALIVE", "LOST", "RESTARTING", "TERMINATED")}),
    "status_changed": Column("a.status_changed", Kind.TIME),
    "region": Column("a.region"),
    "scaling_group": Column("a.scaling_group"),
    "schedulable": Column("a.schedulable", Kind.BOOLEAN),
    "first_contact": Column("a.first_contact", Kind.TIME),
    "lost_at": Column("a.lost_at", Kind.TIME),
    "version": Column("a.version"),
}

AGENTS = Listing(
    source="agents a",
    key="a.id",
    order="a.status, a.scaling_group",
    conditions={
        "id": "a.id = {0}",
        "scaling_group": "a.scaling_group = {0}",
        "status": "a.status = {0}",
    },
    fields={
        "id": "a.id",
        "status": "a.status",
        "status_changed": "a.status_changed",
        "region": "a.region",
        "scaling_group": "a.scaling_group",
        "schedulable": "a.schedulable",
        "available_slots": "a.available_slots::text",
        "occupied_slots": f"{_OCCUPIED}::text",
        "addr": "a.address",
        "architecture": "a.architecture",
        "first_contact": "a.first_contact",
        "lost_at": "a.lost_at",
        "version": "a.version",
        "compute_plugins": "a.compute_plugins::text",
        # Agents of this service have no accelerator plugins yet.
        "hardware_metadata": "'{}'",
        "local_config": (
            "jsonb_build_object('agent', jsonb_build_object('backend', a.engine, 'id', a.id,"
            " 'region', a.region, 'scaling-group', a.scaling_group), 'isolation', a.isolation)::text"
        ),
        "mem_slots": "(COALESCE((a.available_slots ->> 'mem')::numeric, 0) / 1048576)::bigint",
        "cpu_slots": _cores("cpu"),
        "gpu_slots": _cores("cuda.device"),
        "tpu_slots": _cores("tpu.device"),
        "used_mem_slots": f"(COALESCE({_IN_USE.format('mem')}, 0) / 1048576)::bigint",
        "used_cpu_slots": _used("cpu"),
        "used_gpu_slots": _used("cuda.device"),
        "used_tpu_slots": _used("tpu.device"),
    },
    filters={**_AGENT_COLUMNS, "addr": Column("a.address")},
    orders={
        **{name: column.sql for name, column in _AGENT_COLUMNS.items()},
        "available_slots": "a.available_slots",
        "occupied_slots": _OCCUPIED,
    },
)

IMAGES = Listing(
    source="images i",
    key="i.id",
    order="i.canonical, i.architecture",
    conditions={
        "active": "i.is_active = {0}",
        "reference": (
            "{0} IN (i.canonical, i.name || ':' || i.tag)"
            " OR i.id = (SELECT image_id FROM image_aliases WHERE alias = {0})"
        ),
        "architecture": "i.architecture = {0}",
        "installed": f"EXISTS (SELECT {_ALIVE_HOLDERS}) = {{0}}",
        "operation": "('operation' = ANY(string_to_array(i.labels ->> 'ai.backend.features', ' '))) = {0}",
        # A domain that names no registry restricts none.
        "domain": (
            "EXISTS (SELECT FROM domains d WHERE d.name = {0}"
            " AND (d.allowed_docker_registries = '[]' OR d.allowed_docker_registries ? i.registry))"
        ),
    },
    fields={
        "id": "i.id::text",
        "name": "i.name",
        "humanized_name": "i.name",
        "tag": "i.tag",
        "registry": "i.registry",
        "architecture": "i.architecture",
        "digest": "i.digest",
        "hash": "i.digest",
        "size_bytes": "i.size_bytes",
        "labels": (
            "(SELECT COALESCE(jsonb_agg(jsonb_build_object('key', l.key, 'value', l.value)"
            " ORDER BY l.key), '[]') FROM jsonb_each_text(i.labels) l)"
        ),
        "resource_limits": (
            "(SELECT COALESCE(jsonb_agg(jsonb_build_object('key', r.key,"
            " 'min', COALESCE(r.value ->> 'min', '0'), 'max', r.value ->> 'max')"
            " ORDER BY r.key), '[]') FROM jsonb_each(i.resources) r)"
        ),
        "aliases": "ARRAY(SELECT al.alias FROM image_aliases al WHERE al.image_id = i.id ORDER BY al.alias)",
        # The empty name is how clients know "none".
        "supported_accelerators": "ARRAY['']",
        "installed": f"EXISTS (SELECT {_ALIVE_HOLDERS})",
        "installed_agents": f"ARRAY(SELECT a.id {_ALIVE_HOLDERS} ORDER BY a.id)",
    },
)

SCALING_GROUPS = Listing(
    source="scaling_groups g",
    key="g.name",
    order="g.name",
    conditions={
        "name": "g.name = {0}",
        "active": "g.is_active = {0}",
        "of_domain": "g.name IN (SELECT scaling_group FROM scaling_group_domains WHERE domain_name = {0})",
        "of_project": (
            "g.name IN (SELECT scaling_group FROM scaling_group_projects WHERE project_id = {0}::uuid)"
        ),
        "of_keypair": "g.name IN (SELECT scaling_group FROM scaling_group_keypairs WHERE access_key = {0})",
    },
    fields={
        "name": "g.name",
        "description": "g.description",
        "is_active": "g.is_active",
        "is_public": "g.is_public",
        "created_at": "g.created_at",
        "wsproxy_addr": "g.wsproxy_addr",
        "wsproxy_api_token": "g.wsproxy_api_token",
        "driver": "g.driver",
        "driver_opts": "g.driver_opts::text",
        "scheduler": "g.scheduler",
        "scheduler_opts": "g.scheduler_opts::text",
        "use_host_network": "g.use_host_network",
    },
)
