"""Become an ordinary user and run a shell command in the process engine; print what came of it as JSON.

``ordinary_user.py DIRECTORY SCRIPT [CAPABILITY]``: the number of a capability to keep.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import trio

from backendai.core.kernel import KernelLimits
from backendai.embedded.launch import become
from backendai.engines.contract import SandboxRequest
from backendai.engines.probe import probe_host
from backendai.engines.process import ProcessEngine

NOBODY = 65534


async def main(directory: Path, script: str) -> None:
    request = SandboxRequest(
        name="ordinary-user-test",
        argv=("/bin/sh", "-c", script),
        environ={"PATH": "/usr/bin:/bin"},
        hostname="plain",
        limits=KernelLimits(pids=20),
        home=directory / "home",
        ipc=directory / "ipc",
    )
    engine = ProcessEngine.of_this_host()
    async with engine.open(request) as sandbox:
        output = b""
        async for data in sandbox.output:
            output += data
        exit = await sandbox.wait()
    report = {
        "output": output.decode(),
        "code": exit.code,
        "isolation": sandbox.isolation,
        "usable": probe_host().usable,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    if os.geteuid() == 0:
        become(NOBODY, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
