"""How sessions and runs are shown over REST, legacy names included (contract 02 §2.4, §5, §7.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from backendai.core.execution import ConsoleItem, RunReply, RunStatus
from backendai.core.session import SessionCreated, SessionRecord
from backendai.core.statistics import metrics

_MERGED = frozenset({"stdout", "stderr", "log"})
_PORT_OPTIONS = ("url_template", "allowed_arguments", "allowed_envs")


def created_view(created: SessionCreated, *, legacy: bool) -> dict[str, Any]:
    ports = [service_port(port) for port in created.service_ports]
    view: dict[str, Any] = {
        "sessionId": str(created.session_id),
        "sessionName": created.name,
        "status": created.status,
        "servicePorts": ports,
        "created": created.created,
    }
    if not created.created:
        view["service_ports"] = ports
    if legacy:
        # Old clients go on with what this says, and know sessions by their names only.
        view["kernelId"] = created.name
    return view


def service_port(port: Mapping[str, Any]) -> dict[str, Any]:
    """Optional keys are absent rather than null; clients test for their presence."""
    view: dict[str, Any] = {
        "name": port["name"],
        "protocol": port["protocol"],
        "ports": list(port.get("ports") or port.get("container_ports") or ()),
    }
    view.update({key: port[key] for key in _PORT_OPTIONS if port.get(key) is not None})
    return view


def info_view(record: SessionRecord, now: datetime) -> dict[str, Any]:
    """The union of what all generations expect; the odd Python literals are part of the protocol."""
    ended = record.terminated_at
    age = int(((ended or now) - record.created_at).total_seconds() * 1000)
    stat = record.last_stat
    memory = stat.mem if stat else 0
    return {
        "sessionId": str(record.session_id),
        "sessionName": record.name,
        "domainName": record.domain_name,
        "groupId": str(record.project_id),
        "userId": str(record.user_id),
        "lang": record.image,
        "image": record.image,
        "architecture": record.architecture,
        "registry": record.registry,
        "tag": record.tag,
        "containerId": str(record.container_id),
        "occupiedSlots": repr(record.occupied_slots),
        "occupiedShares": "{}",
        "environ": repr([f"{name}={value}" for name, value in record.environ.items()]),
        "status": record.status.value,
        "statusInfo": str(record.status_info),
        "statusData": record.status_data,
        "age": age,
        "creationTime": str(record.created_at),
        "terminationTime": None if ended is None else str(ended),
        "numQueriesExecuted": record.num_queries,
        "lastStat": None if stat is None else metrics(stat),
        "isolation": record.isolation,
        "queryTimeout": -1,
        "idleTimeout": -1,
        "maxCpuCredit": -1,
        "idle": -1,
        "memoryLimit": (stat.mem_max if stat else 0) >> 10,
        "memoryUsed": memory >> 10,
        "cpuCreditUsed": stat.cpu_used if stat else 0,
    }


def console_view(items: Iterable[ConsoleItem]) -> list[list[Any]]:
    """``[kind, data]`` pairs, neighbouring fragments of one stream joined."""
    view: list[list[Any]] = []
    pieces: list[str] = []
    kind = ""
    for item in items:
        if item.kind != kind and pieces:
            view.append([kind, "".join(pieces)])
            pieces = []
        kind = item.kind
        if kind in _MERGED:
            pieces.append(item.data)
        elif kind == "media":
            view.append([kind, [item.mime, item.data]])
        else:
            view.append([kind, item.data])
    if pieces:
        view.append([kind, "".join(pieces)])
    return view


def frame_view(reply: RunReply) -> dict[str, Any]:
    """A run's state and new output, as the execute stream sends it."""
    options = reply.options
    if options is None and reply.status is RunStatus.WAITING_INPUT:
        options = {"is_password": False}
    view: dict[str, Any] = {
        "status": reply.status.value,
        "exitCode": reply.exit_code,
        "options": options,
        "files": [],
        "console": console_view(reply.items),
    }
    if reply.truncated:
        view["truncated"] = True
    return view


def replay_view(reply: RunReply) -> dict[str, Any]:
    """Items with their indexes, nothing joined: ``next`` is the ``after`` of the next read, ``first`` the
    index of the first item that still exists.
    """
    return {
        "runId": reply.run_id,
        "status": reply.status.value,
        "exitCode": reply.exit_code,
        "options": reply.options,
        "truncated": reply.truncated,
        "items": [
            {"index": item.index, "type": item.kind, "data": item.data}
            | ({} if item.mime is None else {"mime": item.mime})
            for item in reply.items
        ],
        "first": reply.first_index,
        "next": reply.next_index,
    }


def result_view(reply: RunReply, *, separate_streams: bool) -> dict[str, Any]:
    """The ``result`` of an execute call. API v1 wants one text per stream instead of the console list."""
    view = frame_view(reply)
    view["runId"] = reply.run_id
    if separate_streams:
        del view["console"]
        for kind in ("stdout", "stderr"):
            view[kind] = "".join(item.data for item in reply.items if item.kind == kind)
        view["media"] = [[item.mime, item.data] for item in reply.items if item.kind == "media"]
        view["html"] = [item.data for item in reply.items if item.kind == "html"]
    return view
