"""Files and terminals by the official clients, used as the libraries they also are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from official import Client

pytestmark = pytest.mark.clients

FILES = """
import asyncio, json, sys
from ai.backend.client.session import AsyncSession

async def main():
    async with AsyncSession() as api:
        session = api.ComputeSession({name!r})
        await session.upload([{base!r} + "/a.txt", {base!r} + "/sub/caf\\u00e9 %41.txt"], basedir={base!r})
        listed = await session.list_files(".")
        print(json.dumps(sorted(each["filename"] for each in json.loads(listed["files"]))))
        await session.download(["a.txt", "sub"], dest={base!r} + "/out")

asyncio.run(main())
"""
TERMINAL = """
import asyncio, base64, json
from ai.backend.client.session import AsyncSession

async def main():
    async with AsyncSession() as api:
        session = api.ComputeSession({name!r})
        async with session.stream_pty() as terminal:
            # The library's own resize() uses an attribute that its class has not had for years.
            await terminal.send_str(json.dumps({{"type": "resize", "rows": 31, "cols": 97}}))
            line = base64.b64encode(b"stty size; echo sum-$((40+2))\\n").decode()
            await terminal.send_str(json.dumps({{"type": "stdin", "chars": line}}))
            seen = ""
            while "31 97" not in seen or "sum-42" not in seen:
                message = await asyncio.wait_for(terminal.receive_json(), 20)
                seen += base64.b64decode(message["data"]).decode()
            print("seen")

asyncio.run(main())
"""


@asynccontextmanager
async def session(client: Client) -> AsyncIterator[str]:
    name = f"test-{uuid4().hex[:12]}"
    said = await client(*client.generation.create, "-t", name, "python")
    assert said.code == 0, said
    try:
        yield name
    finally:
        await client(*client.generation.terminate, name)


async def test_files_in_and_out(client: Client, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one")
    big = bytes(range(256)) * 20_000
    (tmp_path / "sub" / "caf\u00e9 %41.txt").write_bytes(big)
    async with session(client) as name:
        said = await client.library(FILES.format(name=name, base=str(tmp_path)))
        assert said.code == 0, said
        assert {"a.txt", "sub"} <= set(json.loads(said.out.splitlines()[-1]))
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"one"
    (found,) = list((tmp_path / "out").rglob("caf*"))
    assert found.name == "caf\u00e9 %41.txt"
    assert found.read_bytes() == big


async def test_a_terminal(client: Client) -> None:
    async with session(client) as name:
        said = await client.library(TERMINAL.format(name=name))
    assert (said.code, said.out) == (0, "seen\n"), said
