"""Files, events and WebSockets, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping

from backendai.core.errors import KernelExecutionFailed, ObjectNotFound
from backendai.gateway.openapi import shapes
from backendai.gateway.openapi.operation import Media, Operation, Upgrade

_ARCHIVES = Media("multipart/mixed", "One part per file, each a tar archive")
_ARCHIVE = Media("application/x-tar", "The tar archive of the file")
_DOWNLOAD = "When bytes are missing the body ends without its end mark."


def _tunnel(bytes_of: str) -> Operation:
    return Operation(
        summary=f"Tunnel {bytes_of} to an app in a session",
        tag="streams",
        query=shapes.TunnelWish,
        replies={101: Upgrade("Binary messages are the bytes of one TCP connection, in both directions.")},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    )


STREAMS: Mapping[str, Operation] = {
    "POST /session/{ref}/upload": Operation(
        summary="Put files into a session",
        about="Each replaces what has its name once all of it has arrived; those before a refused one stay.",
        tag="files",
        body=Media("multipart/form-data", "A file per part; its file name is its path in the session"),
        replies={204: None},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/{ref}/download": Operation(
        summary="Get files of a session",
        about=_DOWNLOAD,
        tag="files",
        query=shapes.FilesWish,
        replies={200: _ARCHIVES},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "POST /session/{ref}/download": Operation(
        summary="Get files of a session",
        about=_DOWNLOAD,
        tag="files",
        body=shapes.FilesWish,
        replies={200: _ARCHIVES},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/{ref}/download_single": Operation(
        summary="Get one file of a session",
        about=_DOWNLOAD,
        tag="files",
        query=shapes.FileWish,
        replies={200: _ARCHIVE},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "POST /session/{ref}/download_single": Operation(
        summary="Get one file of a session",
        about=_DOWNLOAD,
        tag="files",
        body=shapes.FileWish,
        replies={200: _ARCHIVE},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /session/{ref}/files": Operation(
        summary="What lies in a directory of a session",
        tag="files",
        query=shapes.ListWish,
        replies={200: shapes.Listing},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "POST /session/{ref}/files": Operation(
        summary="What lies in a directory of a session",
        tag="files",
        body=shapes.ListWish,
        replies={200: shapes.Listing},
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /events/session": Operation(
        summary="What happens to sessions, as it happens",
        about=(
            "The header `Last-Event-ID` continues where an earlier stream broke off; `events_lost` tells "
            "that this was too long ago. A reader that is too slow gets `server_close` with the reason, one "
            "whose server stops can come back. Comments come every 15 seconds."
        ),
        tag="streams",
        query=shapes.EventsWish,
        replies={200: Media("text/event-stream", "Server-sent events whose data are JSON objects")},
        refusals=(ObjectNotFound,),
        for_others=True,
    ),
    "GET /events/background-task": Operation(
        summary="How far a background task has come",
        about="Ends with the task.",
        tag="streams",
        query=shapes.TaskWish,
        replies={200: Media("text/event-stream", "Server-sent events whose data are JSON objects")},
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
    "GET /stream/session/{ref}/pty": Operation(
        summary="A terminal in a session",
        about="All who connect to the same `terminal` share it, and it outlives them.",
        tag="streams",
        query=shapes.TerminalWish,
        replies={
            101: Upgrade(
                "JSON frames. From the client `{type: stdin, chars: base64}`, `{type: resize, rows, cols}`, "
                "`{type: restart}`; from the server `{type: out, data: base64}`."
            )
        },
        refusals=(KernelExecutionFailed,),
        for_others=True,
    ),
    "GET /stream/session/{ref}/httpproxy": _tunnel("HTTP"),
    "GET /stream/session/{ref}/tcpproxy": _tunnel("TCP"),
}
