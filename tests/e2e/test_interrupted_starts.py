"""Ctrl-C while `backendai up` is starting: it stops in order, and the next start finds nothing amiss."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from live.api import Api
from live.service import STOP_WITHIN, processes_of, running_service, wait_until

#: What is seen when the moment has come, from the data directory and what was said.
_MOMENTS: dict[str, Callable[[Path, str], bool]] = {
    "the cluster is made": lambda data, said: (data / "postgres.new" / "PG_VERSION").exists(),
    "the tables are made": lambda data, said: "checking the tables" in said,
    "the agent has begun": lambda data, said: (data / "agent" / "lock").exists(),
}


def test_it_may_be_interrupted_at_any_time(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for moment, has_come in _MOMENTS.items():
        _interrupt_when(data, tmp_path / "said", moment, has_come)
        # Whoever was orphaned is reaped by the machine's first process, which may take its time.
        wait_until(lambda: not processes_of(data), within=10, what=f"nothing is left after: {moment}")
        assert str(data) not in Path("/proc/mounts").read_text()
        assert not (data / "up.json").exists()
    with running_service(data, "--warm-pool", "0") as service, Api(service) as api:
        assert api.call("GET", "/auth?echo=well")["echo"] == "well"


def _interrupt_when(data: Path, log: Path, moment: str, has_come: Callable[[Path, str], bool]) -> None:
    (data / "agent" / "lock").unlink(missing_ok=True)
    command = [sys.executable, "-m", "backendai", "up", "--data-dir", str(data), "--warm-pool", "0"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, "--http-port", "0", "--https-port", "0"], stdout=said, stderr=said
        )
    try:
        wait_until(
            lambda: has_come(data, log.read_text()) or process.poll() is not None, within=60, what=moment
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_WITHIN) == 0, f"{moment}: {log.read_text()}"
    finally:
        process.kill()
        process.wait()
    told = log.read_text()
    assert told.endswith("backendai: stopping\n"), f"{moment}: {told}"
