"""Running code: ``POST /session/{s}`` and its companions (contract 02 §7 to §9)."""

from __future__ import annotations

from backendai.core.errors import InvalidParameters
from backendai.core.execution import CompletionRequest, RunMode, RunRequest
from backendai.core.ids import new_run_id
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import NO_CONTENT, Reply, json_reply
from backendai.gateway.route import VERSIONED, Gate, Route
from backendai.gateway.session_view import result_view

_MAX_RUN_ID = 64
_MAX_CODE = 1 << 20


async def execute(call: Call) -> Reply:
    if _wants_completion(call):
        return await complete(call)
    request = _run_request(call)
    reply = await call.services.execution.run(await call.owner(), call.arguments["ref"], request)
    return json_reply({"result": result_view(reply, separate_streams=call.version.major == 1)})


def _wants_completion(call: Call) -> bool:
    parameters = call.parameters
    options = parameters.get("options")
    forgotten = "mode" not in parameters and isinstance(options, dict) and "row" in options
    return parameters.get("mode") == RunMode.COMPLETE or forgotten


def _run_request(call: Call) -> RunRequest:
    fields = Fields(call.parameters)
    run_id = fields.optional_text("runId", limit=_MAX_RUN_ID)
    mode = RunMode.QUERY if call.version.major == 1 else _mode(call, run_id)
    code = fields.free_text("code", limit=_MAX_CODE)
    options = fields.mapping("options")
    fields.check()
    return RunRequest(run_id=run_id or new_run_id(), mode=mode, code=code, options=options)


def _mode(call: Call, run_id: str | None) -> RunMode:
    if "runId" not in call.parameters:
        raise InvalidParameters("runId is missing!")
    word = call.parameters.get("mode")
    if not word:
        raise InvalidParameters("mode is missing or empty!")
    try:
        mode = RunMode(word)
    except ValueError:
        raise InvalidParameters("mode has an invalid value.") from None
    if mode in (RunMode.CONTINUE, RunMode.INPUT) and run_id is None:
        raise InvalidParameters("continuation requires explicit run ID")
    return mode


async def complete(call: Call) -> Reply:
    fields = Fields(call.parameters)
    options = Fields(fields.mapping("options"), prefix="options.")
    request = CompletionRequest(
        code=fields.free_text("code", limit=_MAX_CODE),
        row=options.integer("row", minimum=0),
        col=options.integer("col", minimum=0),
        line=options.free_text("line", limit=_MAX_CODE),
        post=options.free_text("post", limit=_MAX_CODE),
    )
    fields.problems.update(options.problems)
    fields.check()
    found = await call.services.execution.complete(await call.owner(), call.arguments["ref"], request)
    return json_reply({"result": {"status": "finished", "completions": found}})


async def interrupt(call: Call) -> Reply:
    await call.services.execution.interrupt(await call.owner(), call.arguments["ref"])
    return NO_CONTENT


ROUTES = tuple(
    route
    for root, legacy in (("/session", False), ("/kernel", True), (f"{VERSIONED}/kernel", True))
    for route in (
        Route(
            method="POST",
            path=f"{root}/<ref>",
            handler=execute,
            gate=Gate.READ,
            changes_state=True,
            legacy=legacy,
        ),
        Route(method="POST", path=f"{root}/<ref>/complete", handler=complete, gate=Gate.READ, legacy=legacy),
        Route(
            method="POST",
            path=f"{root}/<ref>/interrupt",
            handler=interrupt,
            gate=Gate.READ,
            changes_state=True,
            legacy=legacy,
        ),
    )
)
