"""A process that opens WebSockets and never looks at them again.

Usage: abandoning_clients.py HOST:PORT PATH COUNT. Says ``open`` when all are, and lives until its input ends.
"""

from __future__ import annotations

import resource
import socket
import sys

from gateway_client import sign_headers


def open_one(host: str, path: str) -> socket.socket:
    name, port = host.split(":")
    connection = socket.create_connection((name, int(port)))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += [f"{key}: {value}" for key, value in sign_headers("GET", path, host, content_type=None).items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    assert connection.recv(12) == b"HTTP/1.1 101"
    return connection


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = [open_one(sys.argv[1], sys.argv[2]) for _ in range(int(sys.argv[3]))]
    print("open", flush=True)
    sys.stdin.read()
