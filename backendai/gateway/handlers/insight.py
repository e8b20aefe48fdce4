"""Looking into the life of a session: why it is where it is, and what newer clients ask (contract 02 §12)."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from backendai.core.chronicle import Dependency
from backendai.core.errors import NotImplementedByServer
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import Gate, Route

#: Sessions asked for at once.
_MOST_IDS = 100


async def explain(call: Call) -> Reply:
    answer = await call.services.explain.explain(call.principal, await call.owner(), call.arguments["ref"])
    return json_reply(answer)


async def status_history(call: Call) -> Reply:
    passages = await call.services.chronicle.history(await call.owner(), call.arguments["ref"])
    return json_reply(
        {
            # Of a status it had several times, the last.
            "result": {each.status.lower(): each.at for each in passages},
            "history": [{"status": e.status, "at": e.at, "reason": e.reason} for e in passages],
        }
    )


async def dependency_graph(call: Call) -> Reply:
    root = await call.services.chronicle.dependencies(await call.owner(), call.arguments["ref"])
    return json_reply(_node(root))


def _node(dependency: Dependency) -> dict[str, Any]:
    """Status and time have the form that clients take apart."""
    session = dependency.session
    return {
        "session_id": str(session.session_id),
        "session_name": session.name,
        "status": f"KernelStatus.{session.status}",
        "status_changed": session.changed.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "depends_on": [_node(each) for each in dependency.depends_on],
    }


async def transit_status(call: Call) -> Reply:
    fields = Fields(call.parameters)
    ids = fields.uuids("ids", "session_ids", "sessionIds", most=_MOST_IDS)
    fields.check()
    statuses = await call.services.chronicle.statuses(await call.owner(), ids)
    return json_reply({"session_status_map": {str(id_): status for id_, status in statuses.items()}})


async def abusing_report(call: Call) -> Reply:
    """Nothing here watches for abuse: limits are held by the sandbox, not reported after the fact."""
    record = await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    return json_reply({"kernel": str(record.session_id), "abuse_report": None})


async def direct_access_info(call: Call) -> Reply:
    """Kernels take no connections but through this API, so there is no address to tell."""
    record = await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    return json_reply(
        {
            "kernel_role": "main",
            "session_type": record.type.value,
            "public_host": None,
            "sshd_ports": [],
        }
    )


async def commit_state(call: Call) -> Reply:
    record = await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    return json_reply({"kernel": str(record.session_id), "status": "unsupported"})


async def commit(call: Call) -> Reply:
    await call.services.sessions.info(await call.owner(), call.arguments["ref"])
    raise NotImplementedByServer(
        "Images of this installation are kernelspecs of its hosts; a session cannot be made into one."
    )


def _reading(path: str, handler: Any) -> Route:
    return Route(method="GET", path=path, handler=handler, gate=Gate.READ)


ROUTES = (
    _reading("/session/<ref>/explain", explain),
    _reading("/session/<ref>/status-history", status_history),
    _reading("/session/<ref>/dependency-graph", dependency_graph),
    _reading("/session/<ref>/abusing-report", abusing_report),
    _reading("/session/<ref>/direct-access-info", direct_access_info),
    _reading("/session/<ref>/commit", commit_state),
    Route(method="POST", path="/session/<ref>/commit", handler=commit, gate=Gate.READ),
    Route(method="POST", path="/session/<ref>/imagify", handler=commit, gate=Gate.READ),
    Route(method="POST", path="/session/_/transit-status", handler=transit_status, gate=Gate.READ),
)
