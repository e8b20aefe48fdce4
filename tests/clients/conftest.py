"""Each official client, in a home of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client_commands import preloaded
from live.environments import CannotInstall
from live.service import Service
from official import GENERATIONS, Client, Generation, client_environ, find_interpreter, install


@pytest.fixture(scope="session", params=GENERATIONS, ids=lambda generation: generation.version)
def client(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    generation: Generation = request.param
    python = find_interpreter(generation.python)
    if python is None:
        pytest.skip(f"no Python {generation.python} on this machine for client {generation.version}")
    try:
        program = install(generation, python)
    except CannotInstall as error:
        if generation.required:
            raise
        pytest.skip(f"client {generation.version} could not be installed: {error}")
    home = tmp_path_factory.mktemp(f"home-{generation.version}")
    environ = client_environ(service, home)
    with preloaded(program, environ, home / "commands") as place:
        yield Client(generation, program, environ, place)
