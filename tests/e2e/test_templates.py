"""What sessions begin with, as far as no client has a command for it or shows it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from live.api import Api
from live.service import Service


@pytest.fixture
def api(service: Service) -> Iterator[Api]:
    with Api(service) as api:
        yield api


def new_name() -> str:
    return f"test-{uuid4().hex[:12]}"


def keep(api: Api, kind: str, spec: dict[str, Any], **more: object) -> str:
    document = {
        "api_version": "6",
        "kind": f"{kind}_template",
        "metadata": {"name": new_name()},
        "spec": spec,
    }
    path = f"/template/{'session' if kind == 'task' else kind}"
    made = api.call("POST", path, {"payload": json.dumps(document | more)})
    return str(made["id"])


def test_a_cluster_from_a_template(api: Api) -> None:
    kernel = {"image": "python", "environ": {"COLOUR": "blue"}}
    small = keep(api, "task", {"kernel": kernel, "resources": {"cpu": "0.1", "mem": "256m"}})
    large = keep(api, "task", {"kernel": kernel, "resources": {"cpu": "0.2", "mem": "384m"}})
    nodes = [
        {"role": "main", "session_template": large},
        {"role": "sub", "session_template": small, "replicas": 2},
    ]
    cluster = keep(api, "cluster", {"nodes": nodes, "environ": {"SHAPE": "round"}}, mode="single-node")
    assert cluster in [each["id"] for each in api.call("GET", "/template/cluster")]
    shown = api.call("GET", f"/template/cluster/{cluster}")
    assert [node["role"] for node in shown["template"]["spec"]["nodes"]] == ["main", "sub"]

    name = new_name()
    wish = {"template_id": cluster, "clientSessionToken": name}
    made = api.call("POST", "/session/_/create-cluster", wish)
    try:
        assert (made["status"], made["kernelId"]) == ("RUNNING", name)
        code = "import os\nfor n in ('COLOUR', 'SHAPE', 'BACKENDAI_CLUSTER_SIZE'): print(os.environ[n])"
        assert api.run(name, code)[0].split() == ["blue", "round", "3"]
        slots = ast.literal_eval(api.info(name)["occupiedSlots"])
        assert slots == {"cpu": "0.4", "mem": str((384 + 2 * 256) << 20)}
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            api.call("POST", "/session/_/create-cluster", wish)
    finally:
        api.destroy(name)
    for path in (f"cluster/{cluster}", f"session/{small}"):
        assert api.call("DELETE", f"/template/{path}") == {"success": True}
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        api.call("POST", "/session/_/create-cluster", wish)


def test_a_bootstrap_script_of_a_key_pair(api: Api) -> None:
    path, name = "/user-config/bootstrap-script", new_name()
    try:
        assert api.call("POST", path, {"script": "echo once > kept; exit 3\n"}) == {}
        assert api.call("GET", path) == "echo once > kept; exit 3"
        api.create(name)
    finally:
        api.call("POST", path, {"script": ""})
    try:
        assert api.run(name, "print(open('kept').read())")[0] == "once\n\n"
        logs = api.call("GET", f"/session/{name}/logs")["result"]["logs"]
        assert "The bootstrap script ended with exit code 3." in logs
    finally:
        api.destroy(name)


def test_what_is_asked_of_a_session(api: Api) -> None:
    """Environment, tag and bootstrap script are there, and nobody inside can become anybody else."""
    name = new_name()
    config = {"environ": {"COLOUR": "light blue"}}
    api.create(name, tag="mine", bootstrap_script='echo "$COLOUR $(id -u)" > kept', config=config)
    try:
        assert api.info(name)["tag"] == "mine"
        code = (
            "import os, shutil, subprocess\n"
            "print(open('kept').read().split() == [*os.environ['COLOUR'].split(), str(os.getuid())])\n"
            "print(os.getuid() != 0, os.environ['HOME'] == os.getcwd() == '/home/work')\n"
            "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
            "print([status[name].strip() for name in ('CapBnd', 'NoNewPrivs')])\n"
            "print(shutil.which('sudo') and subprocess.run(['sudo', '-n', 'true']).returncode)\n"
        )
        same, nobody, rights, sudo = api.run(name, code)[0].splitlines()
        assert (same, nobody) == ("True", "True True")
        assert ast.literal_eval(rights) == ["0000000000000000", "1"]
        assert sudo != "0"
    finally:
        api.destroy(name)
