"""A client of 2017, with the pyzmq of today, on a whole service."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import zmq
from live.api import Api
from live.service import Service, command_lines, processes_of, running_service, start_service, wait_until


@contextmanager
def client(service: Service, address: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, closing(context.socket(zmq.REQ)) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        yield socket


def ask(socket: zmq.Socket[bytes], **request: object) -> dict[str, object]:
    socket.send(json.dumps(request).encode())
    reply: dict[str, object] = json.loads(socket.recv())
    return reply


def test_sessions_of_old_clients(tmp_path: Path) -> None:
    first = start_service(tmp_path / "data")
    assert "legacy_endpoint" not in first.announced
    access_key, _ = first.keys()
    assert first.stop() == 0
    options = ("--legacy-port", "0", "--legacy-access-key", access_key)
    with running_service(tmp_path / "data", *options) as service, Api(service) as api:
        endpoint = str(service.announced["legacy_endpoint"])
        with client(service, endpoint) as socket:
            assert ask(socket, action=0, body="x") == {"reply": 0, "body": "x"}
            made = ask(socket, action=2, user_id="joe", entry_id="1", lang="python")
            assert (made["reply"], made["kernel_addr"]) == (200, endpoint)
            assert api.run(str(made["kernel_id"]), "print(6 * 7)") == ("42\n", "", 0)
        # What was said to a kernel itself is refused, and nobody waits for ever.
        with client(service, str(made["kernel_addr"])) as kernel:
            kernel.send(b"\x93\x00run")
            assert json.loads(kernel.recv()) == {"reply": 400, "cause": "Malformed API request."}
        gateway = service.pid("gateway")
        os.kill(gateway, signal.SIGKILL)
        wait_until(lambda: not command_lines().get(gateway), within=10, what="the gateway is gone")
        with client(service, endpoint) as socket:  # the next gateway listens where the first did
            again = ask(socket, action=2, user_id="joe", entry_id="1", lang="python")
            assert again == made
            assert ask(socket, action=3, kernel_id=made["kernel_id"]) == {"reply": 200}
    assert not processes_of(tmp_path / "data")
