"""What sessions have printed: their logs, also after the end, and runs from any index (contract 02 §9)."""

from __future__ import annotations

from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import VERSIONED, Gate, Route
from backendai.gateway.session_view import replay_view

_PLAIN = (b"content-type", b"text/plain; charset=utf-8")
#: Seconds a reader may wait for something new.
_MAX_WAIT = 30


async def logs(call: Call) -> Reply:
    fields = Fields(call.parameters)
    kernel_id = fields.uuid("kernel_id", "kernelId")
    fields.check()
    text = await call.services.execution.logs(await call.owner(), call.arguments["ref"], kernel_id)
    return json_reply({"result": {"logs": text}})


async def task_log(call: Call) -> Reply:
    """The same as plain text, for the main kernel of the session that the task id or a name means."""
    fields = Fields(call.parameters)
    task = fields.text("taskId", "task_id", "session_name", "sessionName", required=True, limit=64)
    fields.check()
    text = await call.services.execution.logs(await call.owner(), task)
    return Reply(200, text.encode("utf-8", "replace"), (_PLAIN,))


async def replay(call: Call) -> Reply:
    fields = Fields(call.parameters)
    after = fields.integer("after", minimum=0)
    wait = fields.integer("wait", minimum=0, maximum=_MAX_WAIT)
    fields.check()
    reply = await call.services.execution.replay(
        await call.owner(), call.arguments["ref"], call.arguments["run_id"], after, wait
    )
    return json_reply({"result": replay_view(reply)})


ROUTES = (
    Route(method="GET", path="/session/_/logs", handler=task_log, gate=Gate.READ),
    Route(method="GET", path="/session/<ref>/runs/<run_id>", handler=replay, gate=Gate.READ, waits=True),
    *(
        Route(method="GET", path=f"{root}/<ref>/logs", handler=logs, gate=Gate.READ, legacy=legacy)
        for root, legacy in (("/session", False), ("/kernel", True), (f"{VERSIONED}/kernel", True))
    ),
)
