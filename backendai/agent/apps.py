"""Servers that kernels of an image can run beside them: our own, what its packages bring, what it declares.

A kernelspec declares apps where Jupyter lets anybody put things, in the ``metadata`` of its ``kernel.json``::

    "metadata": {"backendai": {"apps": [
        {"name": "streamlit", "port": 8501, "argv": ["streamlit", "run", "app.py", "--server.port", "{port}"]}
    ]}}
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog

from backendai.core.kernel import ServiceSpec
from backendai.runner import service_programs

log = structlog.get_logger(__name__)

#: Where programs lie that every sandbox shows.
SYSTEM_PROGRAMS = "/usr/bin:/bin:/usr/local/bin"

_JUPYTER = (
    "--no-browser",
    "--ip=127.0.0.1",
    "--port={port}",
    "--ServerApp.port_retries=0",
    # Who gets here was let in by the gateway; browsers are still held to pages of the same origin.
    "--IdentityProvider.token=",
)
#: Name, port, the package that must be installed, and the words after ``python -m``.
_PYTHON_APPS = (
    ("jupyterlab", 8090, "jupyterlab", ("jupyterlab", *_JUPYTER)),
    ("jupyter", 8080, "notebook", ("notebook", *_JUPYTER)),
    (
        "tensorboard",
        6006,
        "tensorboard",
        ("tensorboard.main", "--logdir", "logs", "--host", "127.0.0.1", "--port", "{port}"),
    ),
)


class DeclaredApp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An app in a ``kernel.json``; ``argv`` may hold ``{port}`` and ``{resource_dir}``."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")]
    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1024, le=65535)]
    protocol: Literal["http", "tcp"] = "http"
    #: Host directories it needs to see, beside the image's own and its program's.
    visible: tuple[str, ...] = ()


def find_apps(
    prefixes: Iterable[Path], python: str, declared: Iterable[DeclaredApp] = (), resource_dir: str = ""
) -> tuple[ServiceSpec, ...]:
    """What can be served beside a kernel whose packages are below ``prefixes``. A declared app takes the
    place of one of the same name; one whose program is not on this host is logged and left out.
    """
    apps = {app.name: app for app in (*_own(), *_python_apps(prefixes, python), *_editors())}
    for app in declared:
        if (service := _service(app, resource_dir)) is not None:
            apps[app.name] = service
    return tuple(apps.values())


def _own() -> Iterator[ServiceSpec]:
    for name, protocol, port, program in (
        ("sshd", "tcp", 2200, service_programs.SSH_SERVER),
        ("ttyd", "http", 7681, service_programs.WEB_TERMINAL),
    ):
        yield ServiceSpec(
            name=name,
            protocol=protocol,
            ports=(port,),
            argv=(sys.executable, str(program), "{port}"),
            visible=(str(service_programs.DIRECTORY),),
        )


def _python_apps(prefixes: Iterable[Path], python: str) -> Iterator[ServiceSpec]:
    folders = [folder for prefix in prefixes for folder in prefix.glob("lib/python3*/*-packages")]
    for name, port, module, words in _PYTHON_APPS:
        if any((folder / module).is_dir() for folder in folders):
            yield ServiceSpec(name=name, protocol="http", ports=(port,), argv=(python, "-m", *words))


def _editors() -> Iterator[ServiceSpec]:
    if (editor := shutil.which("code-server", path=SYSTEM_PROGRAMS)) is not None:
        argv = (editor, "--auth", "none", "--disable-telemetry", "--bind-addr", "127.0.0.1:{port}", ".")
        yield ServiceSpec(name="vscode", protocol="http", ports=(8180,), argv=argv)


def _service(app: DeclaredApp, resource_dir: str) -> ServiceSpec | None:
    argv = tuple(word.replace("{resource_dir}", resource_dir) for word in app.argv)
    # A mere name is looked up inside, when the app is started.
    if os.path.isabs(argv[0]) and not os.access(argv[0], os.X_OK):
        log.warning("agent.app-absent", app=app.name, program=argv[0])
        return None
    return ServiceSpec(
        name=app.name, protocol=app.protocol, ports=(app.port,), argv=argv, visible=app.visible
    )
