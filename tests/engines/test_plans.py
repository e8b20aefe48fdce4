"""The parts of the engines that only compute."""

from __future__ import annotations

from pathlib import Path

from backendai.core.kernel import KernelLimits
from backendai.engines.bubblewrap import visible_for
from backendai.engines.cgroups import ControlGroups, Hierarchies


def _installation(root: Path, *parts: str) -> Path:
    for part in parts:
        (root / part).mkdir(parents=True, exist_ok=True)
    program = root / "bin" / "python"
    program.touch()
    return program


def test_a_virtual_environment_is_shown_with_what_it_stands_on(tmp_path: Path) -> None:
    base = _installation(tmp_path / "base", "bin", "lib", "secrets")
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(base)
    (environment / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    shown = visible_for((str(environment / "bin" / "python"),), "")
    assert set(shown) == {environment, tmp_path / "base" / "bin", tmp_path / "base" / "lib"}


def test_a_home_directory_with_programs_is_not_shown_whole(tmp_path: Path) -> None:
    program = _installation(tmp_path / "user", "bin", "lib", ".ssh", "share/keyrings", "share/jupyter")
    shown = visible_for((str(program),), str(tmp_path / "user" / "share" / "jupyter" / "kernels"))
    assert set(shown) == {tmp_path / "user" / part for part in ("bin", "lib", "share/jupyter")}


def test_what_the_system_has_needs_no_showing() -> None:
    assert visible_for(("/usr/bin/python3",), "") == ()
    assert visible_for(("python3",), "") == ()


def test_version_2_files_are_written_and_read(tmp_path: Path) -> None:
    hierarchies = Hierarchies({}, tmp_path, frozenset({"memory", "cpu", "pids", "io"}))
    groups = ControlGroups.create(hierarchies, "one")
    group = tmp_path / "one"
    (group / "memory.swap.max").touch()
    groups.set_limits(KernelLimits(cpu=1.5, memory=1 << 20, pids=7))
    written = {
        name: (group / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    }
    assert written == {
        "memory.max": "1048576",
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }
    (group / "memory.current").write_text("5000\n")
    (group / "memory.stat").write_text("anon 4000\ninactive_file 1000\n")
    (group / "memory.peak").write_text("9000\n")
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (group / "cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\n")
    (group / "io.stat").write_text("8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n")
    assert groups.memory() == (4000, 9000)
    assert groups.oom_kills() == 2
    assert groups.cpu_ms() == 1.5
    assert groups.io() == (11, 22)
    assert groups.in_force("memory") == "cgroup2"


def test_without_control_groups_nothing_is_claimed() -> None:
    groups = ControlGroups.create(Hierarchies({}, None, frozenset()), "one")
    groups.set_limits(KernelLimits())
    assert groups.in_force("memory") is None
    assert (groups.memory(), groups.cpu_ms(), groups.pids(), groups.io()) == (None, None, None, None)
    assert groups.oom_kills() == 0
    assert groups.try_remove()
