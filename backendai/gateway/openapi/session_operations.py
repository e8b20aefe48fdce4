"""Sessions and their runs, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping

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
    QuotaExceeded,
    SessionAlreadyExists,
)
from backendai.gateway.openapi import shapes
from backendai.gateway.openapi.operation import Either, Media, Operation

SESSIONS: Mapping[str, Operation] = {
    "POST /session": Operation(
        summary="Make a session",
        about=(
            "Waits until it runs, unless `enqueueOnly` is set or `maxWaitSeconds` have passed; who hangs up "
            "leaves it queued. A live session of the same name is used again, if `reuseIfExists` allows it."
        ),
        tag="sessions",
        body=shapes.CreateSession,
        replies={201: shapes.SessionCreated, 200: shapes.SessionCreated},
        refusals=(
            ObjectNotFound,
            Forbidden,
            InsufficientPrivilege,
            QuotaExceeded,
            SessionAlreadyExists,
            NoAvailableAgent,
            NotImplementedByServer,
            KernelCreationFailed,
        ),
        for_others=True,
        repeatable=True,
    ),
    "GET /session/_/match": Operation(
        summary="Sessions whose name or id begins so",
        about="At most ten, ended ones included.",
        tag="sessions",
        query=shapes.MatchWish,
        replies={200: shapes.Matches},
        for_others=True,
    ),
    "GET /session/{ref}": Operation(
        summary="A session in all detail",
        tag="sessions",
        replies={200: shapes.SessionInfo},
        for_others=True,
    ),
    "PATCH /session/{ref}": Operation(
        summary="Restart a session",
        about="What it computed is lost, its files stay.",
        tag="sessions",
        replies={204: None},
        refusals=(KernelRestartFailed,),
        for_others=True,
    ),
    "DELETE /session/{ref}": Operation(
        summary="End a session",
        tag="sessions",
        query=shapes.DestroyWish,
        replies={200: shapes.Destroyed},
        refusals=(Forbidden, InsufficientPrivilege, KernelDestructionFailed),
        for_others=True,
    ),
    "POST /session/{ref}/rename": Operation(
        summary="Rename a session",
        tag="sessions",
        body=shapes.RenameWish,
        replies={204: None},
        refusals=(SessionAlreadyExists,),
        for_others=True,
    ),
    "GET /stream/session/{ref}/apps": Operation(
        summary="Services that a session offers",
        about="Each can be reached by `httpproxy` and `tcpproxy`.",
        tag="sessions",
        replies={200: list[shapes.ServicePort]},
        for_others=True,
    ),
    "POST /session/{ref}": Operation(
        summary="Begin or go on with a run",
        about=(
            "A run is asked for its output until `status` is `finished`: first in mode `query` or `batch`, "
            "then `continue`, or `input` with a line in `code` after `waiting-input`. Mode `complete` is as "
            "`/session/{ref}/complete`."
        ),
        tag="runs",
        body=shapes.RunWish,
        replies={200: Either((shapes.RunReply, shapes.CompletionReply))},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "POST /session/{ref}/complete": Operation(
        summary="How code could go on",
        tag="runs",
        body=shapes.CompletionWish,
        replies={200: shapes.CompletionReply},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "POST /session/{ref}/interrupt": Operation(
        summary="Interrupt what runs",
        tag="runs",
        replies={204: None},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/{ref}/runs/{run_id}": Operation(
        summary="Output of a run from any index",
        about="For who lost the answer to an earlier request. Runs are kept for some time after their end.",
        tag="runs",
        query=shapes.ReplayWish,
        replies={200: shapes.ReplayReply},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/{ref}/logs": Operation(
        summary="What a session has printed",
        tag="runs",
        query=shapes.LogsWish,
        replies={200: shapes.LogsReply},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/_/logs": Operation(
        summary="What a session has printed, as plain text",
        tag="runs",
        query=shapes.TaskLogWish,
        replies={200: Media("text/plain", "The log of the main kernel")},
        refusals=(ObjectNotFound, KernelExecutionFailed),
        for_others=True,
    ),
}
