"""What a client wants of a session that is made from a template (contract 02 §3)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from backendai.core.errors import InvalidParameters
from backendai.core.session import SessionWish
from backendai.core.template import Template, with_clone
from backendai.gateway.session_wish import parse_wish
from backendai.gateway.versions import ApiVersion

_MOUNT_NAMES = ("mounts", "mount_map", "mountMap")


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
            "mounts": list(spec["mounts"]),
            "mount_map": {folder: path for folder, path in spec["mounts"].items() if path},
            "environ": kernel["environ"],
            "scaling_group": spec["scaling_group"],
            "resources": spec["resources"],
            "agent_list": spec["agent_list"],
        },
    }
