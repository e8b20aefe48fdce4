"""Which apps an image has."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from backendai.agent.images import OWN_PYTHON, installed_images
from backendai.core.kernel import ServiceSpec


@pytest.fixture(autouse=True)
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of kernelspecs."""
    monkeypatch.setattr("backendai.agent.images.jupyter_path", lambda _: [str(tmp_path / "kernels")])
    return tmp_path / "kernels"


def apps_of(specs: Path, *, python: str = "python", apps: object = ()) -> dict[str, ServiceSpec]:
    """By name, of an image that declares ``apps``."""
    (specs / "lab").mkdir(parents=True)
    spec: dict[str, Any] = {"argv": [python, "{connection_file}"], "language": "python"}
    spec["metadata"] = {"debugger": True, "backendai": {"apps": apps}}
    (specs / "lab" / "kernel.json").write_text(json.dumps(spec))
    return {service.name: service for service in installed_images()["local/python:lab"].services}


def test_every_image_has_ssh_and_a_terminal(specs: Path) -> None:
    assert {"sshd", "ttyd"} <= set(apps_of(specs))


def test_packages_bring_apps(specs: Path, tmp_path: Path) -> None:
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    (packages / "jupyterlab").mkdir(parents=True)
    (packages / "tensorboard").mkdir()
    python = str(tmp_path / "env" / "bin" / "python")
    apps = apps_of(specs, python=python)
    assert "jupyter" not in apps
    assert apps["jupyterlab"].argv[:3] == (python, "-m", "jupyterlab")
    assert "{port}" in apps["tensorboard"].argv


def test_an_editor_is_there_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backendai.agent.apps.SYSTEM_PROGRAMS", str(tmp_path))
    assert "vscode" not in {service.name for service in installed_images()[OWN_PYTHON].services}
    (tmp_path / "code-server").touch(mode=0o755)
    (editor,) = (each for each in installed_images()[OWN_PYTHON].services if each.name == "vscode")
    assert editor.argv[0] == str(tmp_path / "code-server")


def test_a_kernelspec_declares_apps(specs: Path) -> None:
    declared = [
        {"name": "board", "port": 8501, "argv": ["board", "--port={port}", "--in={resource_dir}"]},
        {"name": "ttyd", "protocol": "tcp", "port": 9000, "argv": [sys.executable], "visible": ["/opt/x"]},
        {"name": "absent", "port": 9001, "argv": ["/opt/no/such/program"]},
    ]
    apps = apps_of(specs, apps=declared)
    assert apps["board"] == ServiceSpec(
        name="board",
        protocol="http",
        ports=(8501,),
        argv=("board", "--port={port}", f"--in={specs / 'lab'}"),
    )
    assert (apps["ttyd"].ports, apps["ttyd"].visible) == ((9000,), ("/opt/x",))
    assert "absent" not in apps


@pytest.mark.parametrize(
    "change", [{"name": "a b"}, {"port": 80}, {"port": 65536}, {"argv": []}, {"protocol": "udp"}, {"x": 1}]
)
def test_what_cannot_be_is_no_image(specs: Path, change: dict[str, object]) -> None:
    with pytest.raises(KeyError):
        apps_of(specs, apps=[{"name": "board", "port": 8501, "argv": ["board"], **change}])
