"""What a process in the sandbox can see and do, and what is left of it afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from backendai.core.kernel import KernelLimits
from backendai.engines.contract import SandboxExit, SandboxFailed, SandboxRequest
from backendai.engines.identities import claim_identity
from backendai.engines.probe import probe_host
from backendai.engines.process import ProcessEngine
from backendai.engines.sweep import sweep_leftovers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def kernel_directory(tmp_path: Path) -> Path:
    for name in ("home", "ipc"):
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


def request(directory: Path, script: str, **options: object) -> SandboxRequest:
    chosen: dict[str, object] = {
        # Not like a runner's, or a sweep on this host would take it for a leftover.
        "name": f"test-{uuid4()}",
        "argv": ("/bin/sh", "-c", script),
        "environ": {"PATH": "/usr/bin:/bin", "MARK": "yes"},
        "hostname": "main1",
        "limits": KernelLimits(),
        "home": directory / "home",
        "ipc": directory / "ipc",
        **options,
    }
    return SandboxRequest(**chosen)  # type: ignore[arg-type]


async def run(asked: SandboxRequest) -> tuple[str, SandboxExit]:
    with trio.fail_after(20):
        async with ProcessEngine.of_this_host().open(asked) as sandbox:
            output = b""
            async for data in sandbox.output:
                output += data
            return output.decode(), await sandbox.wait()


async def test_the_world_inside(kernel_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER_SECRET", "visible?")
    script = (
        "id -u; hostname; pwd; echo $MARK; env | grep -c OUTER; ls /; ls /home; cat /etc/shadow; ls /root;"
        "touch /x; touch /etc/x; touch /usr/x; touch /dev/x; touch here && ls;"
        "grep -E 'CapBnd|NoNewPrivs' /proc/self/status;"
        "ls /proc | grep -c '^[0-9]'; ls /sys; ls /proc/self/fd"
    )
    output, _ = await run(request(kernel_directory, script))
    lines = output.splitlines()
    assert lines[:5] == ["1000", "main1", "/home/work", "yes", "0"]
    assert "CapBnd:\t0000000000000000" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "here" in lines
    assert (kernel_directory / "home" / "here").exists()
    for refused in ("/etc/shadow", "/x", "/etc/x", "/usr/x", "/dev/x", "/sys"):
        assert any(refused in line and ("cannot" in line or "No such" in line) for line in lines), refused
    assert lines[-4:] == ["0", "1", "2", "3"]
    assert not Path("/usr/x").exists()


async def test_no_network_unless_asked_for(kernel_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = (
            "import socket\n"
            f"try: socket.create_connection(('127.0.0.1', {port}), 2); print('reached')\n"
            "except OSError as error: print('refused')"
        )
        python = shutil.which("python3", path="/usr/bin")
        if python is None:
            pytest.skip("no system Python")
        argv = (python, "-c", script)
        assert (await run(request(kernel_directory, "", argv=argv)))[0] == "refused\n"
        assert (await run(request(kernel_directory, "", argv=argv, network=True)))[0] == "reached\n"


async def test_memory_file_systems_are_bounded(kernel_directory: Path) -> None:
    limits = KernelLimits(memory=128 << 20)
    script = (
        "head -c 70m /dev/zero > /tmp/f; echo $?; stat -c %s /tmp/f; rm /tmp/f;"
        "head -c 70m /dev/zero > /dev/shm/f; echo $?"
    )
    output, _ = await run(request(kernel_directory, script, limits=limits))
    assert [line for line in output.splitlines() if line.isdigit()] == ["1", str(64 << 20), "1"]


async def test_the_environment_is_not_on_any_command_line(kernel_directory: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "TOKEN": "sesame-1234"}
    output, _ = await run(
        request(kernel_directory, "cat /proc/1/cmdline; echo; echo $TOKEN", environ=environ)
    )
    assert output.count("sesame-1234") == 1


async def test_everything_inside_ends_and_nothing_is_left(kernel_directory: Path) -> None:
    asked = request(
        kernel_directory, "setsid sleep 1000 & sleep 1000 & trap '' TERM INT; echo up; sleep 1000"
    )
    engine = ProcessEngine.of_this_host()
    with trio.fail_after(10):
        async with engine.open(asked) as sandbox:
            assert await sandbox.output.receive_some() == b"up\n"
            stat = sandbox.measure()
            assert stat.pids >= 4
            assert stat.mem > 0
            inside = _processes_of(asked.name)
            assert engine.hierarchies.version_of("pids") is None or len(inside) >= 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    for root in engine.hierarchies.roots:
        assert not (root / asked.name).exists()


def _processes_of(name: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if name in Path("/proc", entry, "cgroup").read_text():
                    found.append(int(entry))
            except OSError:
                continue
    return found


async def test_interrupt_reaches_the_command_and_its_children(kernel_directory: Path) -> None:
    asked = request(kernel_directory, "trap 'echo caught; exit 5' INT; sleep 1000 & echo up; wait")
    with trio.fail_after(10):
        async with ProcessEngine.of_this_host().open(asked) as sandbox:
            assert await sandbox.output.receive_some() == b"up\n"
            sandbox.interrupt()
            assert await sandbox.output.receive_some() == b"caught\n"
            assert (await sandbox.wait()).code == 5


async def test_exit_codes_and_signals(kernel_directory: Path) -> None:
    assert (await run(request(kernel_directory, "exit 3")))[1].code == 3
    assert (await run(request(kernel_directory, "kill -SEGV $$")))[1].code == 128 + signal.SIGSEGV


async def test_the_number_of_processes_is_bounded(kernel_directory: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 100 & done; echo made"
    output, _ = await run(request(kernel_directory, script, limits=KernelLimits(pids=10)))
    assert "made" not in output
    assert "fork" in output


@as_root
async def test_root_hands_a_user_id_of_its_own_to_each(kernel_directory: Path) -> None:
    asked = request(kernel_directory, "echo up; sleep 1000")
    with trio.fail_after(10):
        async with ProcessEngine.of_this_host().open(asked) as sandbox:
            await sandbox.output.receive_some()
            uids = {os.stat(f"/proc/{pid}").st_uid for pid in _processes_of(asked.name)}
    assert len(uids) == 1
    assert uids.pop() >= 1000


@as_root
def test_claims_are_exclusive_and_return() -> None:
    claims = [claim_identity() for _ in range(20)]
    assert len({claim.uid for claim in claims}) == 20
    for claim in claims:
        claim.release()


@pytest.fixture
def directory_of_nobody() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        for part in ("home", "ipc"):
            (directory / part).mkdir()
            os.chown(directory / part, 65534, 65534)
        yield directory


def _as_an_ordinary_user(*arguments: str) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.engines.ordinary_user", *arguments],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@as_root
def test_an_ordinary_user_gets_the_same_sandbox(directory_of_nobody: Path) -> None:
    script = (
        "id -u; touch mine && ls; hostname; cat /etc/shadow;"
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21; do sleep 9 & done; echo made"
    )
    report = _as_an_ordinary_user(str(directory_of_nobody), script)
    assert report["output"].splitlines()[:3] == ["1000", "mine", "plain"]
    assert "made" not in report["output"]
    assert report["isolation"]["user"] == "own namespace"
    assert report["usable"]


@as_root
def test_what_a_service_may_do_its_kernels_may_not(directory_of_nobody: Path) -> None:
    """One that may bind port 80 (capability 10), as a service manager starts it."""
    report = _as_an_ordinary_user(str(directory_of_nobody), "grep Cap /proc/self/status", "10")
    assert {line.split()[1] for line in report["output"].splitlines()} == {"0" * 16}
    assert report["usable"]


async def test_a_failure_to_set_up_is_told(kernel_directory: Path) -> None:
    asked = request(kernel_directory, "true", visible=(Path("/nonexistent/thing"),))
    try:
        said, exit = await run(asked)
    except SandboxFailed as failure:
        said = f"{failure.code} {failure.detail}"
    else:  # bwrap only found out when it was already running
        assert exit.code == 1
    assert "/nonexistent/thing" in said


def test_the_probe_describes_this_host() -> None:
    host = probe_host()
    assert host.usable
    assert host.cpus >= 1
    assert host.isolation["sandbox"] == "bubblewrap"
    for capability in host.missing:
        assert capability.cost
        assert capability.mend


@pytest.fixture
def left_over() -> Iterator[str]:
    """Groups as a killed runner leaves them, with a process in it."""
    hierarchies = ProcessEngine.of_this_host().hierarchies
    if not hierarchies.roots:
        pytest.skip("no control groups here")
    dead = subprocess.Popen(["true"])
    dead.wait()
    name = f"{uuid4()}-{dead.pid}"
    sleeper = subprocess.Popen(["sleep", "1000"])
    for root in hierarchies.roots:
        (root / name).mkdir()
        (root / name / "cgroup.procs").write_text(str(sleeper.pid))
    yield name
    sleeper.wait(timeout=5)


def test_the_sweep_ends_what_dead_runners_left(left_over: str) -> None:
    assert left_over in sweep_leftovers()
