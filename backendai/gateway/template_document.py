"""Reading templates as clients of all generations write them (contract 05 §3): JSON or YAML, in a string."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgspec

from backendai.core.errors import InvalidParameters
from backendai.core.session import ClusterMode, SessionType
from backendai.core.template import TemplateDraft, TemplateKind, check_mount_point, clone_directory
from backendai.gateway.parameters import Fields, read_object
from backendai.gateway.session_wish import MAX_SCRIPT, architecture
from backendai.gateway.yaml_body import MAX_YAML, read_yaml

_Amount = str | int | float
_Node = dict[str, Any]

#: Bytes of one payload.
MAX_PAYLOAD = MAX_YAML
#: Templates in one payload, and nodes in one cluster.
_MOST_DRAFTS = 20
_MOST_NODES = 16
_LONGEST_NAME = 128
_KINDS = {
    TemplateKind.SESSION: ("taskTemplate", "task_template"),
    TemplateKind.CLUSTER: ("clusterTemplate", "cluster_template"),
}
_ROLE = re.compile("[a-z][a-z0-9-]{0,30}", re.ASCII)
#: A branch, tag or commit; a dash at its beginning would be an option to git.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}", re.ASCII)


def read_drafts(payload: str, kind: TemplateKind) -> list[TemplateDraft]:
    """The templates in a payload: one document, or session templates under ``session_templates``.

    Raises :class:`InvalidParameters` with everything that is wrong, or for what cannot be read at all.
    """
    values = _read(payload)
    many = values.get("session_templates")
    if kind is TemplateKind.CLUSTER or many is None:
        return [_draft(Fields(values), Fields({}), kind)]
    if not isinstance(many, list) or not 0 < len(many) <= _MOST_DRAFTS:
        raise InvalidParameters.of({"session_templates": f"must be a list of 1 to {_MOST_DRAFTS} items"})
    drafts = []
    for number, item in enumerate(many):
        if not isinstance(item, dict):
            raise InvalidParameters.of({f"session_templates.{number}": "value is not a dict"})
        about = Fields(item, f"session_templates.{number}.")
        drafts.append(_draft(about.inner("template"), about, kind))
    return drafts


def _read(payload: str) -> dict[str, Any]:
    try:
        return read_object(payload, "payload")
    except InvalidParameters:
        document = read_yaml(payload.encode(), "payload", nulls=True)
    # NUL characters and what else JSON does not take are found on this way.
    return read_object(msgspec.json.encode(document), "payload")


def _draft(fields: Fields, about: Fields, kind: TemplateKind) -> TemplateDraft:
    document = _session(fields) if kind is TemplateKind.SESSION else _cluster(fields)
    draft = TemplateDraft(
        name=about.optional_text("name", limit=_LONGEST_NAME) or document["metadata"]["name"],
        document=document,
        project_id=about.uuid("group_id"),
        user_id=about.uuid("user_uuid"),
    )
    fields.check()
    about.check()
    return draft


def _head(fields: Fields, kind: TemplateKind) -> dict[str, Any]:
    def known(value: Any) -> str:
        if value not in _KINDS[kind]:
            raise ValueError(f"must be {_KINDS[kind][0]}")
        return str(value)

    metadata = fields.inner("metadata")
    return {
        "api_version": fields.text("api_version", "apiVersion", required=True, limit=64),
        "kind": fields.custom("kind", convert=known, default="", required=True),
        "metadata": {
            "name": metadata.text("name", required=True, limit=_LONGEST_NAME),
            "tag": metadata.optional_text("tag", limit=64, blank=True),
        },
    }


def _session(fields: Fields) -> dict[str, Any]:
    spec = fields.inner("spec")
    kernel = spec.inner("kernel")
    run = kernel.inner("run")
    types = ("type", "session_type", "sessionType")
    return {
        **_head(fields, TemplateKind.SESSION),
        "spec": {
            "session_type": spec.choice(
                *types, default="interactive", allowed=SessionType, kind="SessionTypes"
            ),
            "kernel": {
                "image": kernel.text("image", required=True, limit=512),
                "architecture": architecture(kernel),
                "environ": kernel.text_mapping("environ"),
                "run": {
                    "bootstrap": run.optional_text("bootstrap", limit=MAX_SCRIPT, blank=True),
                    "startup_command": run.optional_text(
                        "startup", "startup_command", "startupCommand", limit=MAX_SCRIPT, blank=True
                    ),
                },
                "git": _git(kernel),
            },
            "scaling_group": spec.optional_text("scaling_group", "scalingGroup", limit=64, blank=True),
            "mounts": spec.custom("mounts", convert=_mounts, default=dict[str, str]()),
            "resources": spec.custom("resources", convert=_resources, default=dict[str, _Amount]()),
            "agent_list": list(spec.texts("agent_list", "agentList")) or None,
        },
    }


def _git(kernel: Fields) -> dict[str, Any] | None:
    if not kernel.mapping("git"):
        return None
    git = kernel.inner("git")
    credential = git.inner("credential") if git.mapping("credential") else None
    found: dict[str, Any] = {
        "repository": git.text("repository", required=True, limit=2048),
        "branch": git.custom("branch", convert=_revision, default=None),
        "commit": git.custom("commit", convert=_revision, default=None),
        "credential": credential
        and {
            "username": credential.text("username", required=True, limit=256),
            "password": credential.text("password", required=True, limit=4096),
        },
        "dest_dir": git.optional_text("destination_dir", "destinationDir", "dest_dir", limit=1024),
    }
    try:
        clone_directory(found["repository"] or "unknown", found["dest_dir"])
    except ValueError as error:
        git.refuse("repository", str(error))
    return found


def _cluster(fields: Fields) -> dict[str, Any]:
    spec = fields.inner("spec")
    return {
        **_head(fields, TemplateKind.CLUSTER),
        "mode": fields.choice("mode", default="single-node", allowed=ClusterMode, kind="ClusterMode"),
        "spec": {
            "environ": spec.text_mapping("environ"),
            "mounts": spec.custom("mounts", convert=_mounts, default=dict[str, str]()),
            "nodes": spec.custom("nodes", convert=_nodes, default=list[_Node](), required=True),
        },
    }


def _nodes(value: Any) -> list[_Node]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_NODES:
        raise ValueError(f"must be a list of 1 to {_MOST_NODES} items")
    nodes = [_node(each) for each in value]
    roles = Counter(node["role"] for node in nodes)
    if max(roles.values()) > 1:
        raise ValueError("must have different roles")
    if [node["replicas"] for node in nodes if node["role"] == "main"] != [1]:
        raise ValueError("must have exactly one main node with one replica")
    return nodes


def _node(value: Any) -> _Node:
    if not isinstance(value, dict):
        raise ValueError("must be a list of dicts")
    fields = Fields(value)
    role = fields.text("role", required=True)
    session_template = fields.uuid("session_template", "sessionTemplate")
    replicas = fields.integer("replicas", default=1, minimum=1, maximum=1024)
    for name, problem in fields.problems.items():
        raise ValueError(f"{name} {problem}")
    if session_template is None or _ROLE.fullmatch(role) is None:
        raise ValueError("must each have a role in small letters and a session_template")
    return {"role": role, "session_template": str(session_template), "replicas": replicas}


def _mounts(value: Any) -> dict[str, str]:
    """Folder to where it is to be, empty for the usual place."""
    if not isinstance(value, dict):
        raise ValueError("value is not a dict")
    for folder, path in value.items():
        if not isinstance(path, str | None):
            raise ValueError(f"value of {folder[:64]} is not a string")
        if path:
            check_mount_point(path)
    return {folder: path or "" for folder, path in value.items()}


def _resources(value: Any) -> dict[str, _Amount]:
    if not isinstance(value, dict):
        raise ValueError("value is not a dict")
    for slot, amount in value.items():
        if isinstance(amount, bool) or not isinstance(amount, str | int | float | None):
            raise ValueError(f"value of {slot[:64]} is no amount")
    return {slot: amount for slot, amount in value.items() if amount is not None}


def _revision(value: Any) -> str:
    if not isinstance(value, str) or _REVISION.fullmatch(value) is None:
        raise ValueError("is no name of a branch or commit")
    return value


def draft_of(payload: str, kind: TemplateKind) -> TemplateDraft:
    """Exactly one. Raises :class:`InvalidParameters`."""
    drafts = read_drafts(payload, kind)
    if len(drafts) != 1:
        raise InvalidParameters.of({"payload": "must hold one template"})
    return drafts[0]
