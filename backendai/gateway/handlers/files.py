"""Files of a session: upload, download, list (contract 02 §10). Whole files are never held in memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from urllib.parse import parse_qsl

import msgspec
import trio

from backendai.core.account import Principal
from backendai.core.errors import BackendError, BadRequest, InvalidParameters, KernelExecutionFailed
from backendai.gateway.call import Call
from backendai.gateway.parameters import Fields
from backendai.gateway.reply import NO_CONTENT, Reply, StreamReply, Write, json_reply
from backendai.gateway.route import VERSIONED, Gate, Route
from backendai.gateway.upload import FileBegins, FileEnds, read_files
from backendai.manager.link import AgentStream
from backendai.manager.streams import refusal
from backendai.wire.stream_end import StreamEnded
from backendai.wire.streams import DownloadTarget, UploadTarget

#: Files of one request.
MOST_FILES = 20
_LONGEST_PATH = 4096
#: Seconds in which a session has to take or give the next bytes of a file.
_STALL = 60.0
#: What is still taken in of a refused upload, because closing on a sender loses it our answer.
_DRAIN_TIME = 5.0


# -- into the session


async def upload(call: Call) -> Reply:
    """Each file replaces what has its name once all of it has arrived; those before a refused one stay."""
    assert call.incoming is not None
    try:
        owner = await call.owner()
        await _Upload(call, owner).run()
    except BackendError:
        with trio.move_on_after(_DRAIN_TIME):
            await call.incoming.drain()
        raise
    return NO_CONTENT


class _Upload:
    def __init__(self, call: Call, owner: Principal) -> None:
        self._call = call
        self._owner = owner

    async def run(self) -> None:
        call, stream, size, files = self._call, None, 0, 0
        assert call.incoming is not None
        pieces = read_files(
            call.incoming,
            call.headers.get("content-type", ""),
            most=MOST_FILES,
            timeout=call.options.body_timeout,
        )
        async with aclosing(pieces), AsyncExitStack() as open_file:
            async for piece in pieces:
                if isinstance(piece, FileBegins):
                    stream, size = await open_file.enter_async_context(self._open(piece.name)), 0
                    files += 1
                elif stream is None:
                    raise RuntimeError("bytes of no file")
                elif isinstance(piece, FileEnds):
                    await _finish(stream)
                    await open_file.aclose()
                    stream = None
                else:
                    size += len(piece)
                    if size > call.options.max_upload:
                        raise InvalidParameters(
                            f"Too large file: at most {call.options.max_upload} bytes are taken"
                        )
                    await _send(stream, piece)
        if not files:  # nothing has asked for the session yet
            await call.services.sessions.info(self._owner, call.arguments["ref"])

    @asynccontextmanager
    async def _open(self, name: str) -> AsyncIterator[AgentStream]:
        if not name or len(name) > _LONGEST_PATH or "\x00" in name:
            raise BadRequest("A file has no usable name")
        target = UploadTarget(path=name)
        services = self._call.services
        async with services.streams.open_stream(self._owner, self._call.arguments["ref"], target) as stream:
            yield stream


async def _send(stream: AgentStream, data: bytes) -> None:
    try:
        with trio.fail_after(_STALL):
            await stream.send(data)
    except trio.TooSlowError:
        raise KernelExecutionFailed("The session takes no more of the file.") from None
    except StreamEnded as ended:
        raise refusal(ended.closed.code or "io-error", ended.closed.msg) from None


async def _finish(stream: AgentStream) -> None:
    try:
        with trio.fail_after(_STALL):
            await stream.send_eof()
            closed = await stream.wait_ended()
    except trio.TooSlowError:
        raise KernelExecutionFailed("The session does not finish the file.") from None
    except StreamEnded as ended:
        closed = ended.closed
    if closed.code:
        raise refusal(closed.code, closed.msg)


# -- out of the session


async def download(call: Call) -> StreamReply:
    """One part per file, each a tar archive."""
    files = _texts(call, "files")
    boundary = secrets.token_hex(16).encode()
    headers = ((b"content-type", b"multipart/mixed; boundary=" + boundary),)
    return StreamReply(_opened(call, await call.owner(), files, boundary), headers, kind="downloads")


async def download_single(call: Call) -> StreamReply:
    """The tar archive of one file."""
    files = _texts(call, "file")
    if len(files) != 1:
        raise InvalidParameters.of({"file": "exactly one is wanted"})
    headers = ((b"content-type", b"application/x-tar"),)
    return StreamReply(_opened(call, await call.owner(), files, None), headers, kind="downloads")


@asynccontextmanager
async def _opened(
    call: Call, owner: Principal, files: tuple[str, ...], boundary: bytes | None
) -> AsyncIterator[Callable[[Write], Awaitable[None]]]:
    """All files are opened first, so that a refusal is still an answer of its own."""
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(
                call.services.streams.open_stream(owner, call.arguments["ref"], DownloadTarget(paths=(each,)))
            )
            for each in files
        ]
        yield partial(_write_all, streams, boundary)


async def _write_all(streams: list[AgentStream], boundary: bytes | None, write: Write) -> None:
    for stream in streams:
        if boundary is not None:
            await write(
                b"--" + boundary + b"\r\n"
                b"Content-Type: application/x-tar\r\n"
                b"Content-Encoding: identity\r\n\r\n"
            )
        await _write(stream, write)
        if boundary is not None:
            await write(b"\r\n")
    if boundary is not None:
        await write(b"--" + boundary + b"--\r\n")


async def _write(stream: AgentStream, write: Write) -> None:
    """Copy one archive. Raises when it is not whole, so that the answer ends without an end mark."""
    while True:
        try:
            with trio.fail_after(_STALL):
                data = await stream.receive()
        except trio.TooSlowError:
            raise KernelExecutionFailed("The session gives no more of the file.") from None
        if data is None:
            break
        await write(data)
    with trio.move_on_after(_STALL):
        await stream.wait_ended()
    closed = stream.result
    if closed is None or closed.code:
        raise KernelExecutionFailed("The file could not be read to its end.")


async def list_files(call: Call) -> Reply:
    fields = Fields(call.parameters)
    path = fields.text("path", default=".", limit=_LONGEST_PATH)
    fields.check()
    listing = await call.services.streams.list_files(await call.owner(), call.arguments["ref"], path)
    return json_reply(
        {
            # JSON within JSON: clients decode it a second time.
            "files": msgspec.json.encode(listing.entries).decode(),
            "errors": listing.errors,
            "abspath": path,
        }
    )


def _texts(call: Call, name: str) -> tuple[str, ...]:
    """A list, as an array or single string in the body or as repeated keys in the query."""
    values = call.parameters
    if not call.body.strip():
        given = [value for key, value in parse_qsl(call.query.decode("latin-1")) if key == name]
        values = {name: given} if given else {}
    elif isinstance(values.get(name), str):
        values = {name: [values[name]]}
    fields = Fields(values)
    texts = fields.texts(name)
    if not texts:
        fields.refuse(name, "is required")
    if len(texts) > MOST_FILES:
        raise InvalidParameters(f"Too many files: at most {MOST_FILES} at once")
    fields.check()
    return texts


ROUTES = tuple(
    route
    for root, legacy in (("/session", False), ("/kernel", True), (f"{VERSIONED}/kernel", True))
    for route in (
        Route(
            method="POST",
            path=f"{root}/<ref>/upload",
            handler=upload,
            gate=Gate.READ,
            changes_state=True,
            takes_body=True,
            legacy=legacy,
        ),
        *(
            Route(method=method, path=f"{root}/<ref>/{name}", handler=handler, gate=Gate.READ, legacy=legacy)
            for name, handler in (
                ("download", download),
                ("download_single", download_single),
                ("files", list_files),
            )
            for method in ("GET", "POST")
        ),
    )
)
