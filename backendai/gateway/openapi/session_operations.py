"""Sessions and their runs, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from backendai.core.errors import (
    Forbidden,
    InsufficientPrivilege,
    KernelCreationFailed,
    KernelDestructionFailed,
    KernelExecutionFailed,
    KernelRestartFailed,
    NoAvailableAgent,
    NotImplementedByServer,
    ObjectNotFound,
    OutputNotKept,
    QuotaExceeded,
    SessionAlreadyExists,
)
from backendai.gateway.openapi import shapes
from backendai.gateway.openapi.operation import Either, Media, Operation, about_session

_run = partial(Operation, tag="runs", for_others=True)

#: What keeps a session from being made.
CREATION_REFUSALS = (
    ObjectNotFound,
    Forbidden,
    InsufficientPrivilege,
    QuotaExceeded,
    SessionAlreadyExists,
    NoAvailableAgent,
    NotImplementedByServer,
    KernelCreationFailed,
)

SESSIONS: Mapping[str, Operation] = {
    "POST /session": about_session(
        summary="Make a session",
        about=(
            "Waits until it runs, unless `enqueueOnly` is set or `maxWaitSeconds` have passed; who hangs up "
            "leaves it queued. A live session of the same name is used again, if `reuseIfExists` allows it."
        ),
        body=shapes.CreateSession,
        replies={201: shapes.SessionCreated, 200: shapes.SessionCreated},
        refusals=CREATION_REFUSALS,
        repeatable=True,
    ),
    "GET /session/_/match": about_session(
        summary="Sessions whose name or id begins so",
        about="At most ten, ended ones included.",
        query=shapes.MatchWish,
        replies={200: shapes.Matches},
    ),
    "GET /session/{ref}": about_session(
        summary="A session in all detail",
        replies={200: shapes.SessionInfo},
    ),
    "PATCH /session/{ref}": about_session(
        summary="Restart a session",
        about="What it computed is lost, its files stay.",
        replies={204: None},
        refusals=(KernelRestartFailed,),
    ),
    "DELETE /session/{ref}": about_session(
        summary="End a session",
        query=shapes.DestroyWish,
        replies={200: shapes.Destroyed},
        refusals=(Forbidden, InsufficientPrivilege, KernelDestructionFailed),
    ),
    "POST /session/{ref}/rename": about_session(
        summary="Rename a session",
        body=shapes.RenameWish,
        replies={204: None},
        refusals=(SessionAlreadyExists,),
    ),
    "GET /stream/session/{ref}/apps": about_session(
        summary="Services that a session offers",
        about="Each can be reached by `httpproxy` and `tcpproxy`.",
        replies={200: list[shapes.ServicePort]},
    ),
    "POST /session/{ref}": _run(
        summary="Begin or go on with a run",
        about=(
            "A run is asked for its output until `status` is `finished`: first in mode `query` or `batch`, "
            "then `continue`, or `input` with a line in `code` after `waiting-input`. Mode `complete` is as "
            "`/session/{ref}/complete`."
        ),
        body=shapes.RunWish,
        replies={200: Either((shapes.RunReply, shapes.CompletionReply))},
        refusals=(KernelExecutionFailed,),
    ),
    "POST /session/{ref}/complete": _run(
        summary="How code could go on",
        body=shapes.CompletionWish,
        replies={200: shapes.CompletionReply},
        refusals=(KernelExecutionFailed,),
    ),
    "POST /session/{ref}/interrupt": _run(
        summary="Interrupt what runs",
        replies={204: None},
        refusals=(KernelExecutionFailed,),
    ),
    "GET /session/{ref}/runs/{run_id}": _run(
        summary="Output of a run from any index",
        about="For who lost the answer to an earlier request, also after the end of the session, as long as "
        "its output is kept. Of long runs the last part is kept; `first` tells where it begins.",
        query=shapes.ReplayWish,
        replies={200: shapes.ReplayReply},
        refusals=(KernelExecutionFailed, OutputNotKept),
    ),
    "GET /session/{ref}/logs": _run(
        summary="What a session has printed",
        query=shapes.LogsWish,
        replies={200: shapes.LogsReply},
        refusals=(KernelExecutionFailed, OutputNotKept),
    ),
    "GET /session/_/logs": _run(
        summary="What a session has printed, as plain text",
        query=shapes.TaskLogWish,
        replies={200: Media("text/plain", "The log of the main kernel")},
        refusals=(ObjectNotFound, KernelExecutionFailed, OutputNotKept),
    ),
}
