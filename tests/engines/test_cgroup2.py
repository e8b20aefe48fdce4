"""Version 2 control groups on a real hierarchy, as far as this host has one.

Without controllers there are still the groups themselves, their processor time, and their end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from backendai.engines.cgroups import ControlGroups, Hierarchies, _cgroup_mounts
from backendai.engines.process import ProcessEngine
from tests.engines.test_process import kernel_directory, request

__all__ = ["kernel_directory"]


@pytest.fixture
def parent() -> Iterator[Path]:
    """A group of our own in the version 2 hierarchy."""
    for mount_point, kind, _ in _cgroup_mounts():
        if kind == "cgroup2" and os.access(mount_point, os.W_OK):
            group = mount_point / f"backendai-test-{uuid4()}"
            break
    else:
        pytest.skip("no version 2 hierarchy that we may write to")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error}")
    yield group
    group.rmdir()


async def test_a_sandbox_lives_and_ends_in_its_group(parent: Path, kernel_directory: Path) -> None:
    asked = request(kernel_directory, "cat /proc/self/cgroup; echo up; exec sleep 1000")
    group = parent / asked.name
    with trio.fail_after(20):
        async with ProcessEngine(Hierarchies({}, parent, frozenset())).open(asked) as sandbox:
            output = b""
            while b"up\n" not in output:
                output += await sandbox.output.receive_some()
            assert b"0::/" in output
            # bwrap, process 1 and the command.
            inside = (group / "cgroup.procs").read_text().split()
            assert len(inside) == 3
            async with sandbox.enter(("sh", "-c", "while :; do :; done"), environ={}):
                while len(inside) != 4:
                    await trio.sleep(0.01)
                    inside = (group / "cgroup.procs").read_text().split()
                while sandbox.measure().cpu_used < 50:
                    await trio.sleep(0.01)
            assert sandbox.measure().cpu_used >= 50
    assert not group.exists()
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]


async def test_the_end_of_a_group_is_the_end_of_all_in_it(parent: Path, kernel_directory: Path) -> None:
    hierarchies = Hierarchies({}, parent, frozenset())
    groups = ControlGroups.create(hierarchies, "one")
    entrance = groups.entrances()[0]
    script = f"echo 0 > {entrance}; (setsid sleep 1000 &) ; echo up; exec sleep 1000"
    process = await trio.lowlevel.open_process(["sh", "-c", script], stdout=-1)
    assert process.stdout is not None
    with trio.fail_after(20):
        await process.stdout.receive_some()
        assert not groups.try_remove()
        groups.kill()
        await process.wait()
        while not groups.try_remove():
            await trio.sleep(0.01)
    await process.stdout.aclose()
    assert not entrance.exists()
