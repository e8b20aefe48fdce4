"""A closed-loop load of signed requests: N kept connections, each sending its next request once answered.

One thread and one epoll loop, so that the generator costs little; every request is signed before the
clock runs, so that what is timed is the server. Prints one JSON object. Drives loopback addresses only.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from live.api import signed_headers

#: Requests signed beforehand; more than are ever sent: a server may refuse a signature it has seen.
PREPARED = 20_000
#: An answer later than this is a failure.
PATIENCE = 30.0
MICROSECOND = timedelta(microseconds=1)


@dataclass
class Load:
    """What to send, and for how long. ``keys`` None sends unsigned requests."""

    url: str
    method: str
    target: str
    body: bytes
    connections: int
    warmup: float
    seconds: float
    keys: tuple[str, str] | None

    def prepare(self) -> list[bytes]:
        host = urlsplit(self.url).netloc
        media_type = "application/json" if self.body else "text/plain"
        now = datetime.now(UTC)
        prepared = []
        for number in range(PREPARED):
            headers = {"Host": host, "Content-Type": media_type, "Content-Length": str(len(self.body))}
            if self.keys is not None:
                date = now - number * 997 * MICROSECOND
                headers |= signed_headers(self.method, self.target, host, media_type, self.keys, date)
            lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
            prepared.append("\r\n".join(lines).encode() + b"\r\n\r\n" + self.body)
        return prepared


@dataclass
class Result:
    latencies: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0

    def percentile(self, share: float) -> float | None:
        """In milliseconds."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    def as_dict(self) -> dict[str, object]:
        return {
            "rps": round(len(self.latencies) / self.elapsed, 1),
            "p50_ms": self.percentile(0.5),
            "p95_ms": self.percentile(0.95),
            "p99_ms": self.percentile(0.99),
            "requests": len(self.latencies),
            "seconds": round(self.elapsed, 2),
            "problems": dict(self.problems),
        }


class Malformed(Exception):
    """The server answered something that is not a whole HTTP/1.1 response with a length."""


class Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.sent_at = 0.0

    def send(self, request: bytes, now: float) -> None:
        self.received.clear()
        self.sent_at = now
        self.socket.sendall(request)  # a few hundred bytes into an empty socket buffer: never waits

    def receive(self) -> int | None:
        """The status of a complete answer, None while it is incomplete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise Malformed("closed without a whole answer")
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[:end]).lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise Malformed("an answer without a length")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return int(head[9:12]) if len(self.received) >= end + 4 + length else None


def drive(load: Load) -> Result:
    """Send until ``warmup + seconds`` have passed; what was answered in the warm-up is not counted."""
    requests = load.prepare()
    parts = urlsplit(load.url)
    address = (parts.hostname or "", parts.port or 80)
    connections = {(c := Connection(address)).socket.fileno(): c for _ in range(load.connections)}
    poll = select.epoll()
    result = Result()
    turn = 0
    begin = time.perf_counter()
    start, stop = begin + load.warmup, begin + load.warmup + load.seconds
    for number, connection in connections.items():
        poll.register(number, select.EPOLLIN)
        connection.send(requests[turn % PREPARED], begin)
        turn += 1
    while connections:
        ready = poll.poll(PATIENCE)
        now = time.perf_counter()
        if now >= stop:
            break
        if not ready:
            result.problems["no answer in time"] += len(connections)
            break
        for number, _ in ready:
            connection = connections[number]
            try:
                status = connection.receive()
            except (OSError, Malformed) as error:
                result.problems[str(error)] += 1
                poll.unregister(number)
                connections.pop(number).socket.close()
                continue
            if status is None:
                continue
            now = time.perf_counter()
            if status != 200:
                result.problems[f"status {status}"] += 1
            elif now >= start:
                result.latencies.append(now - connection.sent_at)
            connection.send(requests[turn % PREPARED], now)
            turn += 1
    result.elapsed = time.perf_counter() - start
    poll.close()
    for connection in connections.values():
        connection.socket.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("url", help="endpoint on a loopback address, e.g. http://127.0.0.1:8080")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--path", default="/", help="path and query, as sent and signed")
    parser.add_argument("--body", type=Path, help="file whose content is sent")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds that are not measured")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds that are measured")
    parser.add_argument("--keys", help="ACCESS_KEY:SECRET_KEY; without, requests are not signed")
    given = parser.parse_args()
    if not (urlsplit(given.url).hostname or "").startswith(("127.", "localhost")):
        sys.exit("only loopback addresses are driven")
    access_key, _, secret_key = (given.keys or "").partition(":")
    load = Load(
        url=given.url,
        method=given.method,
        target=given.path,
        body=given.body.read_bytes() if given.body else b"",
        connections=given.connections,
        warmup=given.warmup,
        seconds=given.seconds,
        keys=(access_key, secret_key) if given.keys else None,
    )
    print(json.dumps(drive(load).as_dict()))


if __name__ == "__main__":
    main()
