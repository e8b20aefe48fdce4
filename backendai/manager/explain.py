"""Why a session is where it is: why it waits, why it ended, when it will be stopped and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from backendai.bridges.postgres import Database
from backendai.core.account import Principal
from backendai.core.chronicle import Passage
from backendai.core.lifecycle import STARTING, Reason
from backendai.core.placement import Placed, Waiting, nearest_fit, place, unsuited
from backendai.core.session import DEAD, SessionRecord, SessionStatus, SessionType
from backendai.core.slots import format_slots, is_bytes
from backendai.manager.clock import Clock, wall_time
from backendai.manager.sessions import SessionService
from backendai.storage import callbacks, history, lifetimes, scheduling

#: What reasons mean, for the person. Agents may add reasons of their own.
_MEANING: dict[str, str] = {
    Reason.USER_REQUESTED: "its user ended it",
    Reason.FORCE_TERMINATED: "an administrator ended it by force",
    Reason.SELF_TERMINATED: "its kernel process ended by itself",
    Reason.PENDING_TIMEOUT: "it waited for resources longer than sessions may",
    Reason.FAILED_TO_START: "its kernel could not be started",
    Reason.FAILED_TO_RESTART: "its kernel could not be restarted",
    Reason.RESTART_TIMEOUT: "its restart took too long",
    Reason.MISSING: "its agent does not have its kernel any more",
    Reason.AGENT_TERMINATION: "its agent is gone",
    Reason.SIBLING_ENDED: "another kernel of it ended",
    Reason.FROZEN: "the installation was stopped for maintenance",
    Reason.TASK_FINISHED: "its command has ended",
    Reason.TASK_TIMEOUT: "its command took longer than its batch_timeout",
    Reason.IDLE_TIMEOUT: "nobody used it for as long as its resource policy allows",
    Reason.SESSION_LIFETIME: "it reached the age that its resource policy allows",
    Reason.DEPENDENCY_FAILED: "a session it depends on did not succeed",
    "agent-shutdown": "its agent was shut down",
    "runner-lost": "the process that held its kernel is gone",
}
_RULES: dict[str, str] = {
    Reason.TASK_TIMEOUT: "its command may take no longer (batch_timeout)",
    Reason.IDLE_TIMEOUT: "unless it is used before (idle_timeout of its resource policy)",
    Reason.SESSION_LIFETIME: "sessions may not grow older (max_session_lifetime of its resource policy)",
}


class ExplainService:
    def __init__(self, database: Database, sessions: SessionService, clock: Clock = wall_time) -> None:
        self._database = database
        self._sessions = sessions
        self._clock = clock

    async def explain(self, requester: Principal, owner: Principal, ref: str) -> dict[str, Any]:
        """All that is known of why; names of agents only for superadmins. Dead sessions too."""
        record = await self._sessions.resolve(owner, ref, stale=True)
        kernels = await history.kernel_facts(self._database, record.session_id)
        answer: dict[str, Any] = {
            "sessionId": str(record.session_id),
            "sessionName": record.name,
            "status": record.status,
            "since": record.status_changed,
            "history": [_passage(each) for each in await history.passages(self._database, record.session_id)],
        }
        if untold := await callbacks.of_session(self._database, record.session_id):
            answer["callbacks"] = untold
        if record.status is SessionStatus.PENDING:
            answer["pending"] = await self._pending(requester, record, kernels[0]["deadline"])
            answer["summary"] = _why_pending(answer["pending"])
        elif record.status in DEAD or record.status is SessionStatus.ERROR:
            answer["ending"] = _ending(record, kernels)
            answer["summary"] = _why_over(record, answer["ending"])
        elif record.status is SessionStatus.RUNNING:
            answer["stops"] = await self._stops(record)
            answer["summary"] = _until_when(answer["stops"])
        else:
            answer["deadline"] = min((k["deadline"] for k in kernels if k["deadline"]), default=None)
            answer["summary"] = _under_way(record, answer["deadline"])
        return answer

    async def _pending(
        self, requester: Principal, record: SessionRecord, gives_up_at: datetime | None
    ) -> dict[str, Any]:
        """Decide anew what the scheduler would decide now, and tell."""
        snapshot, _ = await scheduling.read_snapshot(self._database, self._clock(), placing=False)
        session = next((each for each in snapshot.pending if each.id == record.session_id), None)
        if session is None:  # it got its place while we looked, or many are before it
            return {"blockedBy": [], "givesUpAt": gives_up_at}
        group = {each.id for each in snapshot.pending if each.scaling_group == session.scaling_group}
        queue = [each for each in place(snapshot) if each.session_id in group]
        position = next(n for n, each in enumerate(queue, 1) if each.session_id == session.id)
        decision = queue[position - 1]
        suitable = [agent for agent in snapshot.agents if unsuited(agent, session) is None]
        answer: dict[str, Any] = {
            "position": position,
            "queueLength": len(queue),
            "blockedBy": _rules(decision),
            "needs": format_slots(session.total),
            "waitsFor": list(session.unfinished),
            "startsAt": session.starts_at,
            "givesUpAt": gives_up_at,
            "suitableAgents": len(suitable),
            "nearestFit": None,
        }
        fit = nearest_fit(snapshot, session)
        if fit is not None and not isinstance(decision, Placed):
            answer["nearestFit"] = {
                "agent": fit.agent if requester.is_superadmin else None,
                "missing": format_slots(fit.missing),
                "tooSmall": fit.too_small,
            }
        if not suitable:
            answer["unsuitable"] = sorted({unsuited(agent, session) or "" for agent in snapshot.agents})
        return answer

    async def _stops(self, record: SessionRecord) -> list[dict[str, Any]]:
        return [
            {"rule": each.rule, "at": each.at, "why": _RULES[each.rule]}
            for each in await lifetimes.expiries(self._database, record.session_id)
        ]


def _passage(passage: Passage) -> dict[str, Any]:
    return {"status": passage.status, "at": passage.at, "reason": passage.reason}


def _rules(decision: Placed | Waiting) -> list[dict[str, str]]:
    if isinstance(decision, Placed):
        return []
    if decision.failed:
        return [{"rule": name, "why": message} for name, message in decision.failed.items()]
    if decision.held_up:
        return [{"rule": "order", "why": "An older session of this account finds no room, and goes first."}]
    return [{"rule": "no-available-instances", "why": "No agent has enough free."}]


def _why_pending(pending: dict[str, Any]) -> str:
    blocked = pending["blockedBy"]
    if not blocked:
        return "It is about to be started."
    why = " ".join(each["why"] for each in blocked)
    if blocked[0]["rule"] != "no-available-instances":
        return f"It waits: {why}"
    fit = pending["nearestFit"]
    if fit is None:
        reasons = ", ".join(pending.get("unsuitable", ())) or "there is none"
        return f"It waits: no agent can take it ({reasons})."
    missing = " ".join(_shown(slot, amount) for slot, amount in fit["missing"].items())
    if not missing:
        return "It waits: no agent has enough free for all its kernels at once."
    if fit["tooSmall"]:
        return f"It waits in vain: no agent is large enough, even empty. The nearest lacks {missing}."
    return f"It waits: {why} On the nearest {missing} would have to come free."


def _shown(slot: str, amount: str) -> str:
    return f"{slot}={int(amount) / 2**30:.4g}g" if is_bytes(slot) else f"{slot}={amount}"


def _ending(record: SessionRecord, kernels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    data = record.status_data or {}
    return {
        "at": record.terminated_at,
        "reason": record.status_info,
        "why": _MEANING.get(record.status_info or "", record.status_info),
        "result": record.result,
        "exitCode": kernels[0]["exit_code"],
        "error": data.get("error"),
        "dependencies": data.get("dependencies"),
        "kernels": [
            {
                "kernelId": str(kernel["id"]),
                "host": kernel["cluster_hostname"],
                "status": kernel["status"],
                "reason": kernel["status_info"],
                "exitCode": kernel["exit_code"],
            }
            for kernel in kernels
        ],
    }


def _why_over(record: SessionRecord, ending: dict[str, Any]) -> str:
    text = f"It is {record.status} because {ending['why']}"
    if ending["error"]:
        text += f": {ending['error'].get('repr') or ending['error'].get('name')}"
    if ending["dependencies"]:
        text += f" ({', '.join(ending['dependencies'])})"
    if record.type is SessionType.BATCH and ending["exitCode"] is not None:
        text += f", with exit code {ending['exitCode']} ({record.result})"
    return text + "."


def _until_when(stops: Sequence[dict[str, Any]]) -> str:
    if not stops:
        return "It runs, and no rule will stop it."
    first = stops[0]
    return f"It runs, and will be stopped at {first['at']:%Y-%m-%d %H:%M:%S} UTC: {first['why']}."


def _under_way(record: SessionRecord, deadline: datetime | None) -> str:
    what = "started" if record.status in STARTING else record.status.lower()
    limit = "" if deadline is None else f" If that takes until {deadline:%H:%M:%S} UTC, it is given up."
    return f"It is being {what}.{limit}" if what == "started" else f"It is {what}.{limit}"
