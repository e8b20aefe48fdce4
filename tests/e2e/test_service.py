"""Starting and stopping the whole service, side by side and again."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from live.api import Api
from live.service import DidNotStart, Service, processes_of, running_service, start_service

#: What the service promises for its stop, in seconds.
STOPS_WITHIN = 5.0


def test_says_how_it_is_reached(service: Service) -> None:
    assert httpx.get(service.endpoint + "/").json()["version"].startswith("v")
    assert httpx.get(service.endpoint_tls + "/", verify=False).status_code == 200
    assert httpx.get(service.endpoint + "/healthz").status_code == 200
    assert httpx.get(service.endpoint + "/readyz").status_code == 200
    assert "backendai_http_requests_total" in httpx.get(service.endpoint + "/metrics").text
    assert service.keys() != service.keys(admin=True)


def test_secrets_are_in_no_log(service: Service) -> None:
    log = service.log.read_text()
    assert not [secret for _, secret in (service.keys(), service.keys(admin=True)) if secret in log]


def test_a_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service:
        with Api(service) as api:
            api.create("left-running")
            api.begin("left-running", "while True: pass")
        begin = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begin < STOPS_WITHIN

    assert processes_of(tmp_path) == {}
    assert [path for path in tmp_path.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)] == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_second_start_finds_everything_as_it_was(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as first, Api(first) as api:
        created = api.create("remembered")
        api.run("remembered", "print('before the stop')")
        keys = first.keys(), first.keys(admin=True)

    with running_service(tmp_path / "data") as second, Api(second) as api:
        assert (second.keys(), second.keys(admin=True)) == keys
        query = "query($id: UUID!) { compute_session(id: $id) { name status } }"
        variables = {"id": created["sessionId"]}
        found = api.call("POST", "/admin/gql", {"query": query, "variables": variables})
        assert found["data"]["compute_session"] == {"name": "remembered", "status": "TERMINATED"}


def test_two_instances_live_side_by_side(service: Service, tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as other:
        assert other.endpoint != service.endpoint
        for instance in (service, other):
            with Api(instance) as api:
                api.create("same-name")
                assert api.run("same-name", "print('here')")[0] == "here\n"
                api.destroy("same-name")


def test_a_data_directory_has_one_holder(service: Service) -> None:
    with pytest.raises(DidNotStart, match=str(service.process.pid)):
        start_service(service.data_dir)
    assert httpx.get(service.endpoint + "/healthz").status_code == 200


def test_a_wrong_option_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "backendai", "up", "--http-port", "many"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--http-port" in refused.stderr
    assert "Traceback" not in refused.stderr
