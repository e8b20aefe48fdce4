"""What tests do with streams."""

from __future__ import annotations

from backendai.runner.client import RunnerClient
from backendai.runner.stream_client import RunnerStream, open_runner_stream
from backendai.wire.streams import Closed, Data, DownloadTarget, Eof, UploadTarget


async def read_until(stream: RunnerStream, wanted: bytes) -> bytes:
    """What came up to ``wanted``, which must come."""
    seen = b""
    while wanted not in seen:
        frame = await stream.receive()
        assert isinstance(frame, Data), f"{frame} after {seen!r}"
        seen += frame.payload
    return seen


async def read_all(stream: RunnerStream) -> tuple[bytes, Closed]:
    seen = b""
    while not isinstance(frame := await stream.receive(), Closed):
        seen += frame.payload if isinstance(frame, Data) else b""
    return seen, frame


async def upload(client: RunnerClient, path: str, *chunks: bytes) -> Closed:
    async with open_runner_stream(client.directory, UploadTarget(path=path)) as stream:
        for chunk in chunks:
            await stream.send(Data(chunk))
        await stream.send(Eof())
        return (await read_all(stream))[1]


async def download(client: RunnerClient, *paths: str, archive: bool = True) -> tuple[bytes, Closed]:
    target = DownloadTarget(paths=paths, archive=archive)
    async with open_runner_stream(client.directory, target) as stream:
        return await read_all(stream)
