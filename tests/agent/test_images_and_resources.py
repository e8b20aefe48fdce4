"""What this host has: kernelspecs, cores and memory."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from backendai.agent.images import OWN_PYTHON, choose_warm, installed_images
from backendai.agent.resources import lack, node_stat, offered_slots
from backendai.agent.settings import AgentSettings


def install(folder: Path, name: str, spec: object) -> None:
    directory = folder / "kernels" / name
    directory.mkdir(parents=True)
    text = spec if isinstance(spec, str) else json.dumps(spec)
    (directory / "kernel.json").write_text(text)


def test_our_own_python_is_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backendai.agent.images.jupyter_path", lambda _: [str(tmp_path / "kernels")])
    monkeypatch.setattr("backendai.agent.images.shutil.which", lambda program, path: None)
    images = installed_images()
    assert list(images) == [OWN_PYTHON]
    assert images[OWN_PYTHON].argv[0] == sys.executable
    assert choose_warm(images, ()) == [images[OWN_PYTHON]]
    assert OWN_PYTHON.startswith("local/python:3.")


def test_kernelspecs_become_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "user", tmp_path / "system"
    monkeypatch.setattr(
        "backendai.agent.images.jupyter_path", lambda _: [str(first / "kernels"), str(second / "kernels")]
    )
    argv = ["ir", "-f", "{connection_file}"]
    install(first, "ir", {"argv": argv, "language": "R", "display_name": "R", "env": {"A": "b"}})
    install(second, "ir", {"argv": ["other", "{connection_file}"], "language": "R"})
    install(second, "Xeus C++", {"argv": argv, "language": "C++", "interrupt_mode": "message"})
    install(second, "python3", {"argv": argv, "language": "python"})
    install(second, "py-ml", {"argv": argv, "language": "python"})
    install(second, "broken", "{")
    install(second, "deaf", {"argv": ["x"], "language": "x"})
    installed = ["bash", "gcc"]
    monkeypatch.setattr(
        "backendai.agent.images.shutil.which", lambda program, path: program in installed or None
    )
    images = installed_images()
    assert images.pop("local/bash:system").language == "bash"
    assert images.pop("local/c:system").env_snippet is None
    assert set(images) == {OWN_PYTHON, "local/r:ir", "local/c:xeus-c", "local/python:py-ml"}
    assert images["local/r:ir"].argv == tuple(argv)
    assert images["local/r:ir"].env == {"A": "b"}
    assert images["local/r:ir"].resource_dir == str(first / "kernels" / "ir")
    assert images["local/c:xeus-c"].interrupt_mode == "message"
    assert [image.canonical for image in choose_warm(images, ("py-ml", OWN_PYTHON))] == [
        "local/python:py-ml",
        OWN_PYTHON,
    ]
    with pytest.raises(ValueError, match="fixed at the start"):
        choose_warm(images, ("ir",))
    with pytest.raises(ValueError, match="installed"):
        choose_warm(images, ("julia",))


def test_slots_are_measured_or_as_told() -> None:
    measured = offered_slots(AgentSettings(agent_id="a", directory=Path()))
    assert measured["cpu"] >= 1
    assert 0 < measured["mem"] < psutil.virtual_memory().total
    told = offered_slots(AgentSettings(agent_id="a", directory=Path(), cpu=0.5, memory=1 << 30))
    assert told == {"cpu": Decimal("0.5"), "mem": Decimal(1 << 30)}


def test_lack_says_what() -> None:
    offered = {"cpu": Decimal(2), "mem": Decimal(100)}
    assert lack(offered, [], {"cpu": "2", "mem": "100"}) is None
    assert lack(offered, [{"cpu": "1.5"}], {"cpu": "0.5"}) is None
    assert lack(offered, [{"cpu": "1.5"}], {"cpu": "1"}) == "cpu: 1 wanted, 0.5 free"
    assert lack(offered, [], {"tpu": "1"}) == "tpu: 1 wanted, 0 free"
    for amount in ("", "x", "NaN", "-1", "Infinity"):
        assert lack(offered, [], {"cpu": amount}) is not None


def test_node_stat() -> None:
    node_stat()
    stat = node_stat()
    assert stat.mem_total > stat.mem_used > 0
    assert stat.cpu_util >= 0
