"""The peer: a Jupyter Kernel Gateway in an environment of its own, doing the same work."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from live.environments import environment
from processes import free_port, program
from work import Amount

HERE = Path(__file__).parent
STARTS_WITHIN = 60.0


def measure_peer(amount: Amount, scratch: Path) -> dict[str, Any]:
    """Install it on first use, start it on a free port and measure it. Its files stay below ``scratch``."""
    home = environment("peer", Path(sys.executable), HERE / "peer-requirements.txt")
    directories = {
        name: str(scratch / name.lower()) for name in ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
    }
    port = free_port()
    for directory in directories.values():
        Path(directory).mkdir(parents=True)
    with program(
        home / "bin" / "jupyter-kernelgateway",
        "--KernelGatewayApp.ip=127.0.0.1",
        f"--KernelGatewayApp.port={port}",
        "--KernelGatewayApp.log_level=ERROR",
        cwd=scratch,
        environ=directories,
        log=scratch / "log",
    ):
        _wait_for(port)
        done = subprocess.run(
            [
                str(home / "bin" / "python"),
                str(HERE / "peer_kernel.py"),
                f"http://127.0.0.1:{port}",
                json.dumps(asdict(amount)),
            ],
            stdout=subprocess.PIPE,
            check=True,
            timeout=600,
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
