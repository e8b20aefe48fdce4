"""What WebSockets that nobody reads cost the gateway: idle ones, and ones that the session floods.

Starts a service in a temporary directory, opens tunnels into one session, leaves them alone, and prints how
much memory each process has more than before, then how long the gateway took to let them go after
``--relay-idle``.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from live.api import Api, signed_headers
from live.service import Service, running_service

PORT = 9000
#: Takes connections for ever; with FLOOD it writes to each what that takes.
SERVER = """
import selectors, socket, threading
def serve():
    listener = socket.create_server(("127.0.0.1", {port}), backlog=4096)
    listener.setblocking(False)
    events, piece, kept = selectors.DefaultSelector(), b"x" * 65536, []
    events.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in events.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setblocking(False)
                kept.append(connection)
                if {flood}:
                    events.register(connection, selectors.EVENT_WRITE)
            else:
                try:
                    key.fileobj.send(piece)
                except BlockingIOError:
                    pass
                except OSError:
                    events.unregister(key.fileobj)
threading.Thread(target=serve, daemon=True).start()
"""
#: Memory is looked at when it has changed by less than this share for this many seconds.
CALM, CALM_FOR = 0.01, 5.0


def open_tunnel(service: Service, target: str) -> socket.socket:
    host = urlsplit(service.endpoint).netloc
    name, _, port = host.partition(":")
    connection = socket.create_connection((name, int(port)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    headers = signed_headers(
        "GET", target, host, "application/octet-stream", service.keys(), datetime.now(UTC)
    )
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = connection.recv(12)
    if answer != b"HTTP/1.1 101":
        raise SystemExit(f"not upgraded: {answer + connection.recv(2000)!r}")
    return connection


def processes(service: Service) -> dict[str, psutil.Process]:
    found = {name: psutil.Process(service.pid(name)) for name in ("gateway", "agent")}
    for process in psutil.process_iter():
        if str(service.data_dir) in _directory(process) and "zygote" in " ".join(process.cmdline()):
            found[f"runner {process.pid}"] = process
    return found


def _directory(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def resident(found: dict[str, psutil.Process]) -> dict[str, int]:
    return {name: process.memory_info().rss for name, process in found.items()}


def settled(found: dict[str, psutil.Process]) -> dict[str, int]:
    before, since = resident(found), time.monotonic()
    while time.monotonic() < since + CALM_FOR:
        time.sleep(0.5)
        now = resident(found)
        if any(abs(now[name] - before[name]) > CALM * before[name] for name in now):
            before, since = now, time.monotonic()
    return resident(found)


def measure(count: int, idle: float, *, flood: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        environ = {"BACKEND_RELAY_IDLE": f"{idle}s", "BACKEND_WARM_POOL": "0"}
        with (
            running_service(Path(directory) / "data", environ=environ) as service,
            Api(service) as api,
        ):
            api.create("abandoned", config={"preopen_ports": [PORT]})
            api.run("abandoned", SERVER.format(port=PORT, flood=flood))
            target = f"/stream/session/abandoned/tcpproxy?app={PORT}"
            open_tunnel(service, target).close()
            found = processes(service)
            before, expected = settled(found), _handles(found["gateway"])
            begun = time.monotonic()
            with ThreadPoolExecutor(8) as openers:
                connections = list(openers.map(lambda _: open_tunnel(service, target), range(count)))
            took = time.monotonic() - begun
            after = settled(found)
            print(f"{count} tunnels, {'flooded' if flood else 'idle'}, opened in {took:.1f} s")
            for name, size in after.items():
                grown = size - before[name]
                each = f"+{grown / count / 1024:.1f} KiB each"
                print(f"  {name}: {before[name] >> 10} KiB, {each}, {grown / 1e6:.1f} MB")
            if (held := _handles(found["gateway"]) - expected) < 0.99 * count:
                print(f"  only {held} were still open then: choose a longer --idle")
            deadline = time.monotonic() + 3 * idle + 60
            while _handles(found["gateway"]) > expected and time.monotonic() < deadline:
                time.sleep(0.5)
            left = max(0, _handles(found["gateway"]) - expected)
            print(f"  {left} left {time.monotonic() - begun:.0f} s after the first, idle for {idle:g} s")
            for connection in connections:
                connection.close()


def _handles(process: psutil.Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--idle", type=float, default=90.0, help="seconds until silent clients are let go")
    parser.add_argument("--flooded", action="store_true", help="leave out the idle ones")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for flooded in (True,) if chosen.flooded else (False, True):
        measure(chosen.count, chosen.idle, flood=flooded)
