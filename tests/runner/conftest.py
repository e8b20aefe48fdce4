"""Real runners with real kernels, each in a directory of its own that is checked to be gone afterwards."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.core.execution import ConsoleItem, RunMode, RunReply, RunRequest, RunStatus
from backendai.core.ids import new_run_id
from backendai.core.kernel import ImageSpec, KernelLimits, KernelSpec
from backendai.runner.client import RunnerClient, RunnerGone
from backendai.runner.python_kernel import DIRECTORY, LAUNCHER
from backendai.runner.zygote import RunnerZygote, open_runner_zygote
from backendai.wire.runner import RunnerSpec

PYTHON = ImageSpec(
    canonical="local/python:test",
    kernelspec="python3",
    language="python",
    argv=(sys.executable, str(LAUNCHER), "-f", "{connection_file}"),
    resource_dir=str(DIRECTORY),
    env_snippet="__import__('os').environ.update({json})",
)


@pytest.fixture
def kernels_directory() -> Iterator[Path]:
    """Long, as real ones are: a socket address does not hold it."""
    with tempfile.TemporaryDirectory(prefix="backendai-" + "x" * 90) as directory:
        yield Path(directory)


@pytest.fixture
async def zygote() -> AsyncIterator[RunnerZygote]:
    async with open_runner_zygote() as zygote:
        yield zygote


Spawn = Callable[..., Awaitable[RunnerClient]]


@pytest.fixture
async def spawn(zygote: RunnerZygote, kernels_directory: Path) -> AsyncIterator[Spawn]:
    """Start runners; whatever still lives at the end is shut down, and must leave nothing."""
    clients: list[RunnerClient] = []

    async def start(
        *,
        limits: KernelLimits | None = None,
        image: ImageSpec = PYTHON,
        ready: bool = True,
        **options: object,
    ) -> RunnerClient:
        kernel_id = uuid4()
        directory = kernels_directory / str(kernel_id)
        spec_options = {
            name: options.pop(name) for name in list(options) if name in KernelSpec.__struct_fields__
        }
        kernel = KernelSpec(
            kernel_id=kernel_id,
            session_id=kernel_id,
            session_name="test",
            image=image.canonical,
            limits=limits or KernelLimits(),
            **spec_options,
        )
        client = await zygote.spawn(directory, RunnerSpec(kernel=kernel, image=image, **options))
        clients.append(client)
        if ready:
            with trio.fail_after(30):
                await client.wait_ready()
        return client

    yield start
    with trio.fail_after(30):
        for client in clients:
            await client.aclose()
            with suppress(RunnerGone):
                again = await RunnerClient.attach(client.directory)
                await again.shutdown("test-over")
                await again.aclose()
                assert not client.directory.exists()


def query(code: str, **options: object) -> RunRequest:
    return RunRequest(run_id=new_run_id(), mode=RunMode.QUERY, code=code, **options)


async def finish(client: RunnerClient, code: str, *, timeout: float = 30) -> tuple[RunReply, str, str]:
    """Run to the end as a REST client does; the last reply, all of stdout and all of stderr."""
    request = query(code)
    items: list[ConsoleItem] = []
    with trio.fail_after(timeout):
        reply = await client.run(request)
        items += reply.items
        while reply.status is RunStatus.CONTINUED:
            reply = await client.run(RunRequest(run_id=request.run_id, mode=RunMode.CONTINUE))
            items += reply.items
    return reply, text_of(items, "stdout"), text_of(items, "stderr")


def text_of(items: list[ConsoleItem] | tuple[ConsoleItem, ...], kind: str) -> str:
    return "".join(item.data for item in items if item.kind == kind)
