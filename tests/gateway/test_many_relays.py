"""Many WebSockets at a time."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing
from fake_streams import Play, flood, sink
from fakes import Fakes
from gateway_client import SigningClient
from gateway_sockets import until_none_open, until_open

from backendai.gateway.app import Gateway
from backendai.gateway.edge import HttpOptions

TUNNEL = "/stream/session/my-sess/tcpproxy?app=jupyter"

CLIENTS = Path(__file__).parent / "abandoning_clients.py"


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestMany:
    @pytest.fixture
    def options(self) -> HttpOptions:
        return HttpOptions(relay_idle=600.0)

    @pytest.mark.parametrize(
        ("play", "count", "kilobytes"),
        [(sink, 2000, 50), (flood, 500, 50 + (16 << 10) // 500 + 20)],
    )
    async def test_abandoned_sockets_cost_little_and_are_let_go(
        self,
        client: SigningClient,
        fakes: Fakes,
        app: Gateway,
        many_files: None,
        play: Play,
        count: int,
        kilobytes: int,
    ) -> None:
        """Their output is not taken, so with the flood all windows are full, the 16 MiB they share included.

        What plays the flood lives in this process too; the clients have their own.
        """
        fakes.streams.play = play
        gc.collect()
        before = psutil.Process().memory_info().rss
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        run = partial(
            trio.run_process,
            [sys.executable, str(CLIENTS), client.host, TUNNEL, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
        )
        async with trio.open_nursery() as nursery:
            clients = await nursery.start(run)
            with trio.fail_after(60):
                assert await clients.stdout.receive_some() == b"open\n"
            await until_open(fakes, count)
            await trio.testing.wait_all_tasks_blocked(0.1)  # the windows are full
            grown = psutil.Process().memory_info().rss - before
            assert grown < count * kilobytes << 10
            for each in app.relays._relays:
                each._idle = 0.1
            await until_none_open(fakes, within=30)
            await clients.stdin.aclose()
