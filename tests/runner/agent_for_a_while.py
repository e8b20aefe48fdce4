"""An agent to be killed: starts a kernel in the directory given, starts a run, says so, and waits."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import uuid4

import trio

from backendai.core.execution import RunMode, RunRequest
from backendai.core.kernel import KernelSpec
from backendai.runner.zygote import open_runner_zygote
from backendai.wire.runner import RunnerSpec
from tests.runner.conftest import PYTHON


async def main(directory: Path, code: str) -> None:
    async with open_runner_zygote() as zygote:
        kernel = KernelSpec(kernel_id=uuid4(), session_id=uuid4(), session_name="x", image=PYTHON.canonical)
        client = await zygote.spawn(directory, RunnerSpec(kernel=kernel, image=PYTHON))
        await client.wait_ready()
        await client.run(RunRequest(run_id="the-run", mode=RunMode.QUERY, code=code, wait=0.1))
        print("running", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
