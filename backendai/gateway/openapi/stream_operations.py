"""Files, events and WebSockets, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from backendai.core.errors import KernelExecutionFailed, NotImplementedByServer, ObjectNotFound
from backendai.gateway.openapi import shapes
from backendai.gateway.openapi.operation import Answer, Media, Operation, Upgrade

_DOWNLOAD = "When bytes are missing the body ends without its end mark."
_UPLOADED = Media("multipart/form-data", "A file per part; its file name is its path in the session")
_EVENTS = Media("text/event-stream", "Server-sent events whose data are JSON objects")

_file = partial(Operation, tag="files", refusals=(KernelExecutionFailed,), for_others=True)
_stream = partial(Operation, tag="streams", for_others=True)


def _asked_for(path: str, wish: type, summary: str, reply: Answer, about: str = "") -> dict[str, Operation]:
    """What is wished stands in the query string, or in the body."""
    ask = partial(_file, summary=summary, about=about, replies={200: reply})
    return {f"GET {path}": ask(query=wish), f"POST {path}": ask(body=wish)}


def _tunnel(bytes_of: str) -> Operation:
    return _stream(
        summary=f"Tunnel {bytes_of} to an app in a session",
        query=shapes.TunnelWish,
        replies={101: Upgrade("Binary messages are the bytes of one TCP connection, in both directions.")},
        refusals=(KernelExecutionFailed,),
    )


STREAMS: Mapping[str, Operation] = {
    "POST /session/{ref}/upload": _file(
        summary="Put files into a session",
        about="Each replaces what has its name once all of it has arrived; those before a refused one stay.",
        body=_UPLOADED,
        replies={204: None},
    ),
    **_asked_for(
        "/session/{ref}/download",
        shapes.FilesWish,
        "Get files of a session",
        Media("multipart/mixed", "One part per file, each a tar archive"),
        _DOWNLOAD,
    ),
    **_asked_for(
        "/session/{ref}/download_single",
        shapes.FileWish,
        "Get one file of a session",
        Media("application/x-tar", "The tar archive of the file"),
        _DOWNLOAD,
    ),
    **_asked_for(
        "/session/{ref}/files", shapes.ListWish, "What lies in a directory of a session", shapes.Listing
    ),
    "GET /events/session": _stream(
        summary="What happens to sessions, as it happens",
        about=(
            "The header `Last-Event-ID` continues where an earlier stream broke off; `events_lost` tells "
            "that this was too long ago. A reader that is too slow gets `server_close` with the reason, one "
            "whose server stops can come back. Comments come every 15 seconds."
        ),
        query=shapes.EventsWish,
        replies={200: _EVENTS},
        refusals=(ObjectNotFound,),
    ),
    "GET /stream/kernel/{ref}/events": Operation(
        summary="Where 1.x announced the events of a kernel, and never told them",
        tag="streams",
        refusals=(NotImplementedByServer,),
    ),
    "GET /events/background-task": Operation(
        summary="How far a background task has come",
        about="Ends with the task.",
        tag="streams",
        query=shapes.TaskWish,
        replies={200: _EVENTS},
        refusals=(ObjectNotFound,),
    ),
    "GET /stream/session/{ref}/execute": Operation(
        summary="A run over one WebSocket",
        tag="streams",
        replies={
            101: Upgrade(
                "The client's first frame is a JSON object with `mode` (`query` or `batch`), `code` and "
                "`options`. The server sends frames like the `result` of a run; after one whose status is "
                "`waiting-input` the client sends a line as plain text. After the last the server closes."
            )
        },
    ),
    "GET /stream/session/{ref}/pty": _stream(
        summary="A terminal in a session",
        about="All who connect to the same `terminal` share it, and it outlives them.",
        query=shapes.TerminalWish,
        replies={
            101: Upgrade(
                "JSON frames. From the client `{type: stdin, chars: base64}`, `{type: resize, rows, cols}`, "
                "`{type: restart}`; from the server `{type: out, data: base64}`."
            )
        },
        refusals=(KernelExecutionFailed,),
    ),
    "GET /stream/session/{ref}/httpproxy": _tunnel("HTTP"),
    "GET /stream/session/{ref}/tcpproxy": _tunnel("TCP"),
}
