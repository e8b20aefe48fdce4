"""An agent as a process of its own: ``python agent_process.py '<settings as JSON>'``."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import trio

from backendai.agent.server import serve
from backendai.agent.settings import AgentKeys, AgentSettings
from backendai.core.account import Secret
from backendai.supervision.signals import wait_for_stop_signal


async def main(options: dict[str, object]) -> None:
    public, secret, manager = options.pop("keys")
    settings = AgentSettings(
        keys=AgentKeys(public_key=public, secret_key=Secret(secret), manager_public_key=manager),
        heartbeat_interval=timedelta(seconds=0.2),
        orphan_timeout=timedelta(seconds=30),
        directory=Path(options.pop("directory")),
        **options,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, settings)
        await wait_for_stop_signal()
        nursery.cancel_scope.cancel()


trio.run(main, json.loads(sys.argv[1]))
