"""What becomes of sessions, as the official clients ask it: names, histories, dependencies, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from official import Client

pytestmark = pytest.mark.clients

IMAGE = "python"
#: No release has a command or a method for it, only signed requests.
MATCH = """
import asyncio, json
from ai.backend.client.request import Request
from ai.backend.client.session import AsyncSession

async def main():
    async with AsyncSession() as api:
        before = (api,) if {old} else ()
        request = Request(*before, "GET", "/session/_/match", params={{"id": {prefix!r}}})
        async with request.fetch() as response:
            print(json.dumps(await response.json()))

asyncio.run(main())
"""


def new_name() -> str:
    return f"test-{uuid4().hex[:12]}"


@asynccontextmanager
async def session(client: Client, name: str, *options: str) -> AsyncIterator[str]:
    """Its id, where the client tells it."""
    said = await client(*client.generation.create, "-t", name, *options, IMAGE)
    assert said.code == 0, said
    told = re.search(r"Session ID (\S+) is", said.err)
    assert told, said
    try:
        yield told[1]
    finally:
        await client(*client.generation.terminate, name)


async def test_names(client: Client) -> None:
    name, other = new_name(), new_name()
    old = client.generation.version == "20.3.10"
    async with session(client, name, "-e", "COLOUR=blue", "--tag", "mine"):
        said = await client("run", "-t", name, "-c", "import os; print(os.environ['COLOUR'])", IMAGE)
        assert said.out == "blue\n", said
        if not old:  # client 20.03 cannot rename
            renamed = await client("session", "rename", name, other)
            assert renamed.code == 0, renamed
            refused = await client("session", "rename", other, "-no-name-")
            assert refused.code != 0, refused
            back = await client("session", "rename", other, name)
            assert back.code == 0, back
        found = await client.library(MATCH.format(old=old, prefix=name[:12]))
        assert [each["name"] for each in json.loads(found.out)["matches"]] == [name], found


async def test_histories_and_dependencies(client: Client) -> None:
    if client.generation.version in ("20.3.10", "22.3.2"):
        pytest.skip("these clients do not ask for them")
    # The graph shows names up to their last dash.
    first, second = f"first{uuid4().hex[:12]}-x", f"second{uuid4().hex[:12]}-x"
    batch = ("--type", "batch", "-c", "true", "--enqueue-only")
    async with session(client, first) as first_id:
        history = await client("session", "status-history", first)
        assert history.code == 0, history
        assert "preparing" in history.out + history.err, history
        async with session(client, second, *batch, "--depends", first_id):
            graph = await client("session", "show-graph", second)
            assert graph.code == 0, graph
            tree = rf'{second[:-2]} \("PENDING" .*\n└── {first[:-2]} \("RUNNING" '
            assert re.search(tree, graph.out), graph
        refused = await client("session", "commit", first)
        assert refused.code == 1, refused
        assert "kernelspecs" in refused.out + refused.err, refused
