"""A service with an image that has JupyterLab, TensorBoard and apps of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from app_image import write_kernelspec
from browser import chromium
from live.api import Api
from live.environments import environment
from live.service import Service, running_service
from official import GENERATIONS, client_environ, find_interpreter, install
from selenium import webdriver
from tunnels import AppClient

_HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def app_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A whole `backendai up` that has the image ``python:lab``."""
    home = environment("apps", Path(sys.executable), _HERE / "requirements-apps.txt")
    place = tmp_path_factory.mktemp("apps")
    write_kernelspec(place / "jupyter", home / "bin" / "python")
    with running_service(place / "data", environ={"JUPYTER_PATH": str(place / "jupyter")}) as service:
        yield service


@pytest.fixture(scope="session")
def client_of(app_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AppClient]:
    """The official client of a version; skips where its Python is missing."""

    def make(version: str) -> AppClient:
        (generation,) = (each for each in GENERATIONS if each.version == version)
        python = find_interpreter(generation.python)
        if python is None:
            pytest.skip(f"no Python {generation.python} on this machine for client {version}")
        home = tmp_path_factory.mktemp(f"home-{version}")
        (home / ".ssh").mkdir(mode=0o700)
        return AppClient(install(generation, python), client_environ(app_service, home))

    return make


@pytest.fixture(scope="session")
def api(app_service: Service) -> Iterator[Api]:
    with Api(app_service) as api:
        yield api


@pytest.fixture(scope="session")
def lab(api: Api) -> Iterator[str]:
    """A session of the image with all apps and a port for the user's own programs."""
    name = f"lab-{uuid4().hex[:12]}"
    api.create(name, "python:lab", config={"preopen_ports": [9100]})
    yield name
    api.destroy(name)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Remote]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
