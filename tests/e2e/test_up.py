"""What a person does with `backendai up` besides starting and stopping it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from live.api import Api
from live.service import Service, running_service, wait_until


def backendai(
    service: Service, *arguments: str, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    """A command about a service, run beside it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BACKEND_")}
    return subprocess.run(
        [sys.executable, "-m", "backendai", *arguments],
        env={**clean, "BACKEND_DATA_DIR": str(service.data_dir)},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_requests_by_hand(service: Service) -> None:
    answer = backendai(service, "request", "GET", "/auth?echo=hello")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert '"echo":"hello"' in answer.stdout
    refused = backendai(service, "request", "GET", "/session/nobody-has-this")
    assert refused.returncode == 1
    assert "No such session" in refused.stdout
    role = backendai(service, "request", "--admin", "GET", "/auth/role")
    assert '"global_role":"superadmin"' in role.stdout


def test_signed_requests_for_curl(service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    text = 'tab\t "quotes" and \\ back'
    body = '{"echo": ' + '"tab\\t \\"quotes\\" and \\\\ back"}'
    signed = backendai(service, "sign", "POST", "/auth", body)
    sent = subprocess.run(
        ["curl", "-K", "-"], input=signed.stdout, capture_output=True, text=True, timeout=30
    )
    assert httpx.Response(200, text=sent.stdout).json() == {"authorized": "yes", "echo": text}


def test_a_shell_runs_what_is_typed(service: Service) -> None:
    typed = "\n".join(
        [
            "print(40 + 2)",
            "for i in range(2):",
            "    print('line', i)",
            "",
            "input('who? ')",
            "somebody",
            "1/0",
        ]
    )
    answer = backendai(service, "shell", "python", typed=typed)
    assert answer.returncode == 0, answer.stderr
    assert "42" in answer.stdout
    assert "line 1" in answer.stdout
    assert "'somebody'" in answer.stdout
    assert "ZeroDivisionError" in answer.stderr
    with Api(service) as api:

        def ended() -> bool:
            matches = api.call("GET", "/session/_/match?id=shell")["matches"]
            return bool(matches) and all(match["status"] == "TERMINATED" for match in matches)

        wait_until(ended, within=10, what="the shell's session is gone")


def test_tls_with_the_authority_that_is_told(service: Service) -> None:
    trust = ssl.create_default_context(cafile=str(service.data_dir / "tls" / "ca.pem"))
    assert httpx.get(service.endpoint_tls + "/", verify=trust).status_code == 200
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(service.endpoint_tls + "/")


def test_what_is_kept_is_for_the_owner_only(service: Service) -> None:
    for name in ("up.json", "lock", "logs", "tls", "keys", "agent", "postgres"):
        assert (service.data_dir / name).stat().st_mode & 0o077 == 0, name


def test_secrets_are_on_no_command_line_and_not_with_the_agent(service: Service) -> None:
    secrets = [secret for _, secret in (service.keys(), service.keys(admin=True))]
    for part, pid in service.announced["pids"].items():
        words = Path(f"/proc/{pid}/cmdline").read_text()
        assert not [secret for secret in [*secrets, "postgresql://"] if secret in words], part
    environ = Path(f"/proc/{service.pid('agent')}/environ").read_text()
    assert "BACKEND_DATABASE_URL" not in environ
    assert "BACKEND_REDIS_URL" not in environ


def test_a_taken_port_is_told_before_anything_starts(service: Service, tmp_path: Path) -> None:
    port = urlsplit(service.endpoint).port
    answer = backendai(service, "up", "--data-dir", str(tmp_path / "data"), "--http-port", str(port))
    assert answer.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in answer.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_the_end_of_the_database_ends_everything_and_a_start_mends_it(tmp_path: Path) -> None:
    with running_service(tmp_path / "data") as service:
        os.kill(service.pid("postgres"), signal.SIGKILL)
        assert service.process.wait(15) == 1
        assert "PostgreSQL was ended by signal SIGKILL" in service.log.read_text()
        assert not [pid for pid in service.announced["pids"].values() if Path(f"/proc/{pid}").exists()]
    with running_service(tmp_path / "data") as service, Api(service) as api:
        assert api.call("GET", "/auth?echo=again")["echo"] == "again"


def test_an_agent_on_another_host_enrolls_once_with_a_token(tmp_path: Path) -> None:
    # An address of its own, from which no connection is made that could take the port meanwhile.
    with socket.socket() as free:
        free.bind(("127.83.0.1", 0))
        endpoint = f"tcp://127.83.0.1:{free.getsockname()[1]}"
    with running_service(tmp_path / "data", "--events-endpoint", endpoint, "--warm-pool", "0") as service:
        token = backendai(service, "agent", "token").stdout.strip()
        place = tmp_path / "other-host"
        enroll = ("agent", "enroll", "--agent-id", "i-other", "--agent-dir", str(place), "--token", token)
        trust = ("--manager", service.endpoint_tls, "--ca-file", str(service.data_dir / "tls" / "ca.pem"))
        done = backendai(service, *enroll, *trust)
        assert done.returncode == 0, done.stderr
        assert (place / "keys.json").stat().st_mode & 0o077 == 0
        again = backendai(service, *enroll, *trust)
        assert again.returncode == 1
        assert "unknown, expired or used" in again.stderr
        options = (
            "--agent-id",
            "i-other",
            "--agent-dir",
            str(place),
            "--agent-port",
            "0",
            "--warm-pool",
            "0",
        )
        with subprocess.Popen([sys.executable, "-m", "backendai", "agent", *options]) as agent:
            with Api(service, admin=True) as api:
                wait_until(lambda: "i-other" in alive_agents(api), within=20, what="the agent is known")
            agent.terminate()


def alive_agents(api: Api) -> set[str]:
    query = 'query { agent_list(limit: 10, offset: 0, filter: "status == \\"ALIVE\\"") { items { id } } }'
    answer = api.call("POST", "/admin/gql", {"query": query})
    return {item["id"] for item in (answer.get("data") or answer)["agent_list"]["items"]}


def test_an_ordinary_user_may_start_it(tmp_path: Path) -> None:
    """Root can try it as somebody else, provided that the interpreter is where others may go."""
    if os.geteuid() != 0:
        pytest.skip("every other test here is started by an ordinary user already")
    user = next(entry for entry in pwd.getpwall() if 0 < entry.pw_uid < 60000)
    as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    reachable = [*as_user, sys.executable, "-c", "import sys, backendai.core.account; open(sys.executable)"]
    if shutil.which("setpriv") is None or subprocess.run(reachable, capture_output=True).returncode != 0:
        pytest.skip("an ordinary user does not get at this interpreter")
    place = Path("/tmp") / f"bai-user-{os.getpid()}"
    place.mkdir(mode=0o700)
    os.chown(place, user.pw_uid, user.pw_gid)
    try:
        home = {"HOME": str(place), "XDG_RUNTIME_DIR": ""}
        with running_service(place / "data", environ=home, through=as_user) as service, Api(service) as api:
            api.create("of-a-user")
            assert api.run("of-a-user", "print(6 * 7)")[0] == "42\n"
    finally:
        shutil.rmtree(place)
