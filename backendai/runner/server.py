"""The runner's socket: agents come and go, one is served at a time, the newest."""

from __future__ import annotations

from typing import assert_never

import trio

from backendai.runner.keeper import Keeper
from backendai.runner.kernel import KernelRefused
from backendai.runner.runs import Run, RunRefused
from backendai.runner.stream_server import ClientStream, StreamRefused
from backendai.wire import runner as wire

_READ_BYTES = 64 << 10
#: Requests under way at once; more are not read until some are answered.
_MAX_UNDER_WAY = 256


class RunnerServer:
    """Answers requests about one kernel, and knows since when nobody asks."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._present: trio.CancelScope | None = None
        self._deserted_since: float | None = trio.current_time()
        self._dismissed = trio.Event()

    @property
    def deserted_since(self) -> float | None:
        """When the last agent left, by Trio's clock; ``None`` while one is connected."""
        return self._deserted_since

    async def dismissed(self) -> None:
        """Return once the answer to a shutdown is on its way."""
        await self._dismissed.wait()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept for ever; a new conversation ends the one before, streams go on beside it."""
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve_one, await listener.accept())

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        frames = wire.FrameBuffer()
        async with stream:
            try:
                request_id, request = await _next_request(stream, frames)
                if isinstance(request, wire.OpenStream):
                    await self._serve_stream(request, ClientStream(stream, frames, request_id))
                else:
                    await self._be_present(stream, frames, (request_id, request))
            except (trio.BrokenResourceError, wire.BrokenFrame):
                pass  # as below, before anything was asked

    async def _serve_stream(self, request: wire.OpenStream, client: ClientStream) -> None:
        inside = self._keeper.inside
        if inside is None:
            await client.end("gone", "the kernel does not run")
        else:
            await inside.serve(request.target, client)

    async def _be_present(
        self, stream: trio.SocketStream, frames: wire.FrameBuffer, first: tuple[int, wire.RunnerRequest]
    ) -> None:
        if self._present is not None:
            self._present.cancel()
        with trio.CancelScope() as scope:
            self._present = scope
            self._deserted_since = None
            try:
                await self._converse(stream, frames, first)
            finally:
                if self._present is scope:
                    self._present = None
                    self._deserted_since = trio.current_time()

    async def _converse(
        self, stream: trio.SocketStream, frames: wire.FrameBuffer, first: tuple[int, wire.RunnerRequest]
    ) -> None:
        room = trio.Semaphore(_MAX_UNDER_WAY)
        sending = trio.StrictFIFOLock()

        async def answer(request_id: int, request: wire.RunnerRequest, run: Run | None) -> None:
            try:
                await send(request_id, await self._answer(request, run))
                if isinstance(request, wire.Shutdown):
                    self._dismissed.set()
            finally:
                room.release()

        async def send(request_id: int, message: wire.RunnerAnswer) -> None:
            try:
                async with sending:
                    await stream.send_all(wire.encode_frame(request_id, message))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            try:
                request_id, request = first
                while True:
                    await room.acquire()
                    try:
                        run = self._begin(request)
                    except RunRefused as refused:
                        room.release()
                        await send(request_id, wire.Refusal(code=refused.code, msg=str(refused)))
                    else:
                        nursery.start_soon(answer, request_id, request, run)
                    request_id, request = await _next_request(stream, frames)
            except (trio.BrokenResourceError, wire.BrokenFrame):
                pass  # the agent is gone, or speaks another protocol: it may come back
            nursery.cancel_scope.cancel()

    def _begin(self, request: wire.RunnerRequest) -> Run | None:
        """What must happen in the order of arrival. Raises :class:`RunRefused`."""
        match request:
            case wire.Run():
                return self._keeper.submit(request.request)
            case wire.Shutdown():
                self._keeper.dispose(request.reason, grace=request.grace, keep_output=request.keep_output)
        return None

    async def _answer(self, request: wire.RunnerRequest, run: Run | None) -> wire.RunnerAnswer:
        keeper = self._keeper
        match request:
            case wire.Describe():
                pass
            case wire.AwaitReady():
                await keeper.ready()
            case wire.Run():
                assert run is not None
                return wire.RunAnswer(reply=await keeper.answer(run, request.request))
            case wire.Interrupt():
                await keeper.interrupt()
                return wire.Accepted()
            case wire.Complete():
                return wire.Completed(matches=await keeper.complete(request.request))
            case wire.ReadLog():
                text, truncated = keeper.logs(request.limit)
                return wire.Log(text=text, truncated=truncated)
            case wire.Measure():
                return wire.Measured(stat=keeper.measure())
            case wire.Assign():
                try:
                    await keeper.assign(request.kernel)
                except KernelRefused as refused:
                    return wire.Refusal(code="assign-failed", msg=str(refused))
            case wire.Restart():
                await keeper.restart()
            case wire.AwaitExit():
                return wire.Exited(exit=await keeper.ended())
            case wire.Shutdown():
                return wire.Exited(exit=await keeper.gone())
            case wire.ListFiles() | wire.StartService() | wire.StopService():
                return await self._ask_inside(request)
            case wire.ListServices():
                return wire.Services(ports=keeper.state().services)
            case wire.OpenStream():
                return wire.Refusal(code="bad-request", msg="a stream has a connection of its own")
            case _:
                assert_never(request)
        return wire.State(state=keeper.state())

    async def _ask_inside(
        self, request: wire.ListFiles | wire.StartService | wire.StopService
    ) -> wire.RunnerAnswer:
        inside = self._keeper.inside
        if inside is None:
            return wire.Refusal(code="not-ready", msg="the kernel does not run")
        try:
            match request:
                case wire.ListFiles(path=path):
                    return wire.Files(listing=await inside.list_files(path))
                case wire.StartService():
                    return wire.ServiceStarted(port=await inside.start_service(request))
                case wire.StopService(name=name):
                    inside.stop_service(name)
                    return wire.Accepted()
        except StreamRefused as refused:
            return wire.Refusal(code=refused.code, msg=str(refused))


async def _next_request(
    stream: trio.SocketStream, frames: wire.FrameBuffer
) -> tuple[int, wire.RunnerRequest]:
    """Raises ``trio.BrokenResourceError`` when there is none any more, and :class:`wire.BrokenFrame`."""
    while (request := frames.next_request()) is None:
        data = await stream.receive_some(_READ_BYTES)
        if not data:
            raise trio.BrokenResourceError("the agent has closed the connection")
        frames.feed(data)
    return request
