"""Sessions of several kernels, made and used by the official command lines."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest
from live.api import Api
from live.service import Service
from official import Client

pytestmark = pytest.mark.clients

IMAGE = "python"
#: In each kernel: tells its name to whoever comes.
BOOTSTRAP = """
cat > server.py <<'END'
import os, socket
with socket.create_server(("", 7000)) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(os.environ["BACKENDAI_CLUSTER_HOST"].encode())
END
python server.py > server.log 2>&1 &
"""
#: Tries until the servers are up.
ASK = """
import socket, time
until = time.monotonic() + 40
def ask(host):
    while True:
        try:
            with socket.create_connection((host, 7000), 30) as connection:
                return connection.makefile().read()
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
print(*[ask(host) for host in ("main1", "sub1", "sub2")])
"""
LAYOUT = (
    "query($id: UUID!) { compute_session(id: $id) { cluster_size cluster_mode "
    "containers { cluster_role cluster_idx cluster_hostname agent status } } }"
)


async def test_a_cluster_of_three(client: Client, service: Service, tmp_path: Path) -> None:
    script = tmp_path / "bootstrap.sh"
    script.write_text(BOOTSTRAP)
    name = f"test-{uuid4().hex[:12]}"
    wish = ("-t", name, "--cluster-size", "3", "--bootstrap-script", str(script), IMAGE)
    said = await client(*client.generation.create, *wish)
    assert said.code == 0, said
    found = re.search(r"Session ID (\S+) is created and ready", said.err)
    assert found, said
    try:
        said = await client("run", "-t", name, "-c", ASK, IMAGE)
        assert said.out == "main1 sub1 sub2\n", said
        with Api(service) as api:
            layout = api.call("POST", "/admin/gql", {"query": LAYOUT, "variables": {"id": found[1]}})
        session = layout["data"]["compute_session"]
        assert (session["cluster_size"], session["cluster_mode"]) == (3, "single-node")
        kernels = [(kernel["cluster_role"], kernel["cluster_idx"]) for kernel in session["containers"]]
        assert kernels == [("main", 1), ("sub", 1), ("sub", 2)]
        assert {kernel["status"] for kernel in session["containers"]} == {"RUNNING"}
        assert len({kernel["agent"] for kernel in session["containers"]}) == 1
    finally:
        await client(*client.generation.terminate, name)
