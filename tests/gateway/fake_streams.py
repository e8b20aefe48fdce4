"""Streams whose far end a test plays, with the real windows in between."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import trio

from backendai.core.account import Principal
from backendai.core.errors import BackendError, BadRequest, InternalError, ObjectNotFound
from backendai.core.files import FileEntry, FileListing
from backendai.manager.link import AgentAddress, AgentStream
from backendai.manager.streams import RunningApp, refusal
from backendai.supervision.background import open_background
from backendai.wire.stream_end import StreamEnd, StreamEnded, WindowBudget
from backendai.wire.streams import Closed, DownloadTarget, PortTarget, StreamTarget, UploadTarget

Play = Callable[[StreamEnd, StreamTarget], Awaitable[None]]


@asynccontextmanager
async def stream_pair(play: Play, target: StreamTarget, budget: WindowBudget) -> AsyncIterator[StreamEnd]:
    near: StreamEnd = StreamEnd(lambda frame: far.take(frame), budget)
    far: StreamEnd = StreamEnd(lambda frame: near.take(frame), WindowBudget(1 << 20))
    if play is sink:  # nobody has to play nothing
        try:
            yield near
        finally:
            near.close("aborted")
        return

    async def start(nursery: trio.Nursery) -> None:
        nursery.start_soon(run)

    async def run() -> None:
        with suppress(StreamEnded):
            await play(far, target)
        far.close()

    async with open_background(start, name="the player"):
        try:
            yield near
        finally:
            near.close("aborted")


async def echo(end: StreamEnd, target: StreamTarget) -> None:
    while (data := await end.receive()) is not None:
        await end.send(data)


async def sink(end: StreamEnd, target: StreamTarget) -> None:
    """Neither reads nor writes."""
    await end.wait_ended()


_CHUNK = bytes(1 << 16)


async def flood(end: StreamEnd, target: StreamTarget) -> None:
    while True:
        await end.send(_CHUNK)


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class FakeStreams:
    """Knows ``my-sess`` with the app ``jupyter``, and files by name."""

    play: Play = echo
    targets: list[StreamTarget] = field(default_factory=list)
    apps: list[tuple[Any, ...]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    #: What is made of the next streams, in this order: the refusal to raise, or how an upload ends.
    refusals: list[BackendError] = field(default_factory=list)
    endings: list[Closed] = field(default_factory=list)
    budget: WindowBudget = field(default_factory=lambda: WindowBudget(16 << 20))
    open: int = 0

    @asynccontextmanager
    async def open_stream(
        self, owner: Principal, ref: str, target: StreamTarget
    ) -> AsyncIterator[AgentStream]:
        await trio.lowlevel.checkpoint()
        if ref == "missing":
            raise ObjectNotFound("session")
        if self.refusals:
            raise self.refusals.pop(0)
        self.targets.append(target)
        play = self.play
        if isinstance(target, UploadTarget):
            play = self._take_file
        elif isinstance(target, DownloadTarget):
            if target.paths[0] not in self.files:
                raise refusal("not-found", target.paths[0])
            play = self._give_file
        self.open += 1
        try:
            async with stream_pair(play, target, self.budget) as stream:
                yield stream
        finally:
            self.open -= 1

    async def _take_file(self, end: StreamEnd, target: StreamTarget) -> None:
        assert isinstance(target, UploadTarget)
        content = bytearray()
        while (data := await end.receive()) is not None:
            content += data
        if end.result is None and not self.endings:
            self.files[target.path] = bytes(content)
        elif self.endings:
            closed = self.endings.pop(0)
            end.close(closed.code, closed.msg)

    async def _give_file(self, end: StreamEnd, target: StreamTarget) -> None:
        assert isinstance(target, DownloadTarget)
        await end.send(archive(target.paths[0], self.files[target.paths[0]]))
        if self.endings:
            closed = self.endings.pop(0)
            end.close(closed.code, closed.msg)

    async def list_files(self, owner: Principal, ref: str, path: str) -> FileListing:
        if path == "/etc":
            raise refusal("forbidden-path", path)
        entries = tuple(
            FileEntry(filename=name, mode="-rw-r--r--", size=len(content), ctime=1.5, mtime=2.5, atime=3.5)
            for name, content in self.files.items()
        )
        return FileListing(path=path, entries=entries)

    async def start_app(
        self,
        owner: Principal,
        ref: str,
        name: str,
        *,
        port: int | None = None,
        environ: Mapping[str, str],
        arguments: Mapping[str, str | tuple[str, ...] | None],
    ) -> RunningApp:
        self.apps.append((ref, name, port, dict(environ), dict(arguments)))
        if name == "broken":
            raise InternalError("Failed to launch the app service", data="no such program")
        if name != "jupyter":
            raise ObjectNotFound("app service", f"{ref}:{name}")
        if port not in (None, 8090):
            raise BadRequest
        return RunningApp(session_id=UUID(int=1), agent=AgentAddress("tcp://x"), port=port or 8080)

    @asynccontextmanager
    async def connect(self, app: RunningApp) -> AsyncIterator[AgentStream]:
        async with self.open_stream(None, "my-sess", PortTarget(port=app.port)) as stream:  # type: ignore[arg-type]
            yield stream
