"""Sessions of several kernels on a whole service: by name to each other, and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from live.api import Api
from live.service import Service

#: In each kernel, on all its addresses and at the same port: says where it is and what it was told.
BOOTSTRAP = """
cat > server.py <<'END'
import os, socket
with socket.create_server(("", 7000)) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            told = [os.environ[f"BACKENDAI_CLUSTER_{name}"] for name in ("ROLE", "IDX", "HOST")]
            connection.sendall(" ".join([socket.gethostname(), *told]).encode())
END
python server.py > server.log 2>&1 &
"""
#: Tries until it is answered, for servers take their time to come up.
ASK = """
import socket, time
def ask(host, patience=60):
    until = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, 7000), 30) as connection:
                return connection.makefile().read()
        except OSError as error:
            if time.monotonic() > until:
                return type(error).__name__
            time.sleep(0.05)
"""


@pytest.fixture
def api(service: Service) -> Iterator[Api]:
    with Api(service) as api:
        yield api


@contextmanager
def cluster(api: Api, size: int, **more: object) -> Iterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    wish = {"clusterSize": size, "bootstrap_script": BOOTSTRAP, **more}
    assert api.create(name, **wish)["status"] == "RUNNING"
    try:
        yield name
    finally:
        if api.status(name) != "GONE":
            api.destroy(name)


def kernels_of(api: Api, name: str) -> list[dict[str, str]]:
    (match,) = api.call("GET", f"/session/_/match?id={name}")["matches"]
    query = (
        "query($id: UUID!) { compute_session(id: $id) { cluster_mode cluster_size "
        "containers { cluster_role cluster_idx cluster_hostname agent status } } }"
    )
    answer = api.call("POST", "/admin/gql", {"query": query, "variables": {"id": match["id"]}})
    found: list[dict[str, str]] = answer["data"]["compute_session"]["containers"]
    return found


def test_kernels_of_a_session_reach_each_other_by_name(api: Api) -> None:
    with cluster(api, 3) as name, cluster(api, 2) as other:
        code = ASK + "for host in ('main1', 'sub1', 'sub2'): print(ask(host))"
        reached = "main1 main 1 main1\nsub1 sub 1 sub1\nsub2 sub 2 sub2\n"
        assert api.run(name, code) == (reached, "", 0)
        out, _, _ = api.run(name, "import os; print(os.environ['BACKENDAI_CLUSTER_HOSTS'])")
        assert out == "main1,sub1,sub2\n"
        # The other session has a sub1 of its own, and nobody at the address of this one's sub2.
        assert api.run(other, ASK + "print(ask('sub1'))") == ("sub1 sub 1 sub1\n", "", 0)
        assert api.run(other, ASK + "print(ask('10.128.0.3', 0))")[0] in ("OSError\n", "TimeoutError\n")
        with cluster(api, 1) as single:
            assert api.run(single, ASK + "print(ask('10.128.0.2', 0))")[0] == "OSError\n"

        api.call("PATCH", f"/session/{name}")
        assert api.run(name, code) == (reached, "", 0)
        kernels = kernels_of(api, name)
        assert [kernel["cluster_hostname"] for kernel in kernels] == ["main1", "sub1", "sub2"]
        assert len({kernel["agent"] for kernel in kernels}) == 1
        assert api.info(name)["isolation"]["network"] == "kernels of the session"
