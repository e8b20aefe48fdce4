"""What a client wants of a session that is made from a template (contract 02 §3)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from backendai.core.errors import InvalidParameters
from backendai.core.session import ClusterMode, SessionWish
from backendai.core.template import Template, with_clone
from backendai.gateway.session_wish import parse_wish
from backendai.gateway.versions import ApiVersion

_MOUNT_NAMES = ("mounts", "mount_map", "mountMap")
_GROUP_NAMES = ("group", "groupName", "group_name")
_DOMAIN_NAMES = ("domain", "domainName", "domain_name")
_CLUSTER_NAMES = ("name", "clientSessionToken", "type", "sessionType", "tag", "enqueueOnly", "maxWaitSeconds")


def parse_template_wish(
    parameters: Mapping[str, Any], template: Template | None, version: ApiVersion, now: datetime
) -> SessionWish:
    """What the client says counts, what it leaves open is as the template has it.

    Folders count together: the client's replace the template's. Raises :class:`InvalidParameters`.
    """
    defaults: dict[str, Any] = {"name": f"session-{secrets.token_hex(6)}"}
    if template is not None:
        defaults |= _defaults(template)
        config = parameters.get("config")
        if isinstance(config, dict):
            if _chooses_mounts(config):
                defaults["config"] = _without_mounts(defaults["config"])
            else:
                parameters = {**parameters, "config": _without_mounts(config)}
    try:
        wish = parse_wish(parameters, version, now, defaults)
    except InvalidParameters as error:
        raise InvalidParameters("Error while validating template", data=error.data) from error
    git = template and template.document["spec"]["kernel"]["git"]
    if not git:
        return wish
    return msgspec.structs.replace(wish, bootstrap_script=with_clone(wish.bootstrap_script, git))


def parse_cluster_wish(
    parameters: Mapping[str, Any],
    cluster: Template,
    nodes: Mapping[UUID, Template],
    version: ApiVersion,
    now: datetime,
) -> SessionWish:
    """A cluster as its template has it; the client names it and says where it is to be and how to wait.

    ``nodes`` are the session templates that the cluster's refers to. Its kernels differ in what they get of
    the agents; anything else in which their templates differ is refused. Raises :class:`InvalidParameters`.
    """
    by_role = {node["role"]: node for node in cluster.document["spec"]["nodes"]}
    if by_role.keys() - {"main", "sub"}:
        raise InvalidParameters.of({"spec.nodes": "must have no roles but main and sub"})
    main, *subs = (
        nodes[UUID(by_role[role]["session_template"])] for role in ("main", "sub") if role in by_role
    )
    if any(_apart_from_resources(each) != _apart_from_resources(main) for each in subs):
        raise InvalidParameters.of({"spec.nodes": "must have templates that differ in resources only"})
    names = (*_CLUSTER_NAMES, *_GROUP_NAMES, *_DOMAIN_NAMES)
    given = {name: parameters[name] for name in names if name in parameters}
    moved = msgspec.structs.replace(main, domain_name=cluster.domain_name, project_name=cluster.project_name)
    environ = {**main.document["spec"]["kernel"]["environ"], **cluster.document["spec"]["environ"]}
    config: dict[str, Any] = {"scaling_group": parameters.get("scaling_group"), "environ": environ}
    if mounts := cluster.document["spec"]["mounts"]:
        config |= _mounts(mounts)
    given |= {"config": config, "reuseIfExists": False}
    return msgspec.structs.replace(
        parse_template_wish(given, moved, version, now),
        cluster_size=sum(node["replicas"] for node in by_role.values()),
        cluster_mode=ClusterMode(cluster.document["mode"]),
        sub_resources=subs[0].document["spec"]["resources"] if subs else None,
    )


def _apart_from_resources(template: Template) -> dict[str, Any]:
    return {name: value for name, value in template.document["spec"].items() if name != "resources"}


def _chooses_mounts(config: Mapping[str, Any]) -> bool:
    """Clients send an empty list by themselves; with a map beside it, none are wanted."""
    return bool(config.get("mounts")) or any(config.get(name) is not None for name in _MOUNT_NAMES[1:])


def _without_mounts(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _MOUNT_NAMES}


def _defaults(template: Template) -> dict[str, Any]:
    """What a template says, by the names of the parameters of a new session."""
    spec = template.document["spec"]
    kernel = spec["kernel"]
    return {
        "image": kernel["image"],
        "architecture": kernel["architecture"],
        "type": spec["session_type"],
        "domain": template.domain_name,
        "group": template.project_name,
        "tag": template.document["metadata"]["tag"],
        "startupCommand": kernel["run"]["startup_command"],
        "bootstrap_script": kernel["run"]["bootstrap"],
        "config": {
            **_mounts(spec["mounts"]),
            "environ": kernel["environ"],
            "scaling_group": spec["scaling_group"],
            "resources": spec["resources"],
            "agent_list": spec["agent_list"],
        },
    }


def _mounts(mounts: Mapping[str, str]) -> dict[str, Any]:
    """Folders as a template has them, by the names of the parameters."""
    return {"mounts": list(mounts), "mount_map": {folder: path for folder, path in mounts.items() if path}}
