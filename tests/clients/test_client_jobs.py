"""Source files, ranges, files in and out, logs, batch sessions and events by the official command lines."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import trio
from live.service import Service
from official import COMMAND_WITHIN, Client

pytestmark = pytest.mark.clients

OLDEST = "20.3.10"
GO = "while [ ! -e go ]; do sleep 0.05; done"


@dataclass(frozen=True)
class Sources:
    """A ``run`` of source files and what it has to say."""

    image: str
    files: dict[str, str]
    options: tuple[str, ...]
    out: str
    remarks: tuple[str, ...]


SOURCES = (
    Sources(
        "python",
        {
            "src/main.py": "import os\nfrom words.all import greet\ngreet(os.environ['WHOM'])\nexit(3)",
            "src/words/all.py": "def greet(whom): print('hello', whom)",
        },
        ("-e", "WHOM=wörld", "--basedir", "src"),
        "hello wörld\n",
        ("Build finished. (exit code = 0)", "Execution finished. (exit code = 3)"),
    ),
    Sources(
        "bash",
        {"say it.sh": 'echo "$@" "$(cat built)"'},
        ("--clean", "rm -f built", "--build", "echo by hand > built", "--exec", "bash 'say it.sh' made"),
        "made by hand\n",
        ("Clean finished. (exit code = 0)", "Execution finished. (exit code = 0)"),
    ),
    Sources(
        "c",
        {
            "main.c": "#include <stdio.h>\nint main(void) { puts(WHAT); return 4; }",
            "Makefile": "it: main.c\n\t@$(CC) -DWHAT='\"made\"' -o it main.c\n",
        },
        ("--build", "make it", "--exec", "./it"),
        "made\n",
        ("Build finished. (exit code = 0)", "Execution finished. (exit code = 4)"),
    ),
)


def lay_down(place: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def command(client: Client, name: str) -> tuple[str, ...]:
    """Client 20.03 has all commands at the top."""
    return (name,) if client.generation.version == OLDEST else ("session", name)


@pytest.mark.parametrize("sources", SOURCES, ids=lambda sources: sources.image)
async def test_run_of_source_files(client: Client, tmp_path: Path, sources: Sources) -> None:
    if sources.image == "c" and shutil.which("gcc") is None:
        pytest.skip("no compiler")
    lay_down(tmp_path, sources.files)
    said = await client("run", "--rm", *sources.options, sources.image, *sources.files, cwd=tmp_path)
    assert said.code == 0, said
    assert said.out.endswith(sources.out), said
    for remark in sources.remarks:
        assert remark in said.err, said


async def test_run_of_several_sessions(client: Client, tmp_path: Path) -> None:
    lay_down(tmp_path, {"main.sh": "echo $1 $X $(cat built)"})
    resources = ("-r", "cpu=1", "-r", "mem=256m")
    ranges = ("--env-range", "x=case:red,blue", "--build-range", "b=range:5,6", "--exec-range", "y=case:late")
    steps = ("--build", "echo $b > built", "--exec", "bash main.sh $y")
    said = await client(
        "run", "--rm", *resources, "-e", "X=$x", *ranges, *steps, "bash", "main.sh", cwd=tmp_path
    )
    assert said.code == 0, said
    assert "Running multiple sessions for the following combinations" in said.out + said.err
    logs = Path(client.environ["XDG_CACHE_HOME"]).rglob("client-logs/*.stdout.log")
    printed = [path.read_text() for path in logs]
    assert {"late red 5\n", "late blue 5\n"} <= set(printed), said


@asynccontextmanager
async def session(client: Client, *options: str, letter: str = "t") -> AsyncIterator[tuple[str, str]]:
    """Name and id of a session made by the client; ended after the body if it has not ended yet.

    The first letter matters to `session watch`: it takes any session that has the same.
    """
    name = f"{letter}{uuid4().hex[:12]}"
    said = await client(*client.generation.create, "-t", name, *options)
    assert said.code == 0, said
    told = re.search(r"Session ID ([0-9a-f-]{36})", said.err)
    assert told, said
    try:
        yield name, told[1]
    finally:
        await client(*client.generation.terminate, name)


async def test_files_and_logs(client: Client, tmp_path: Path) -> None:
    big = bytes(range(256)) * 12_000
    names = ("of paper.txt", "sub/dir/caf\u00e9 %41.bin")
    lay_down(tmp_path, {names[0]: "one", names[1]: "", "go": "", "out/x": ""})
    (tmp_path / names[1]).write_bytes(big)
    logs = (*client.generation.logs,)
    waiting = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.05)"
    async with session(client, "python") as (name, session_id):
        sent = await client(*command(client, "upload"), name, *names, cwd=tmp_path)
        assert sent.code == 0, sent
        listed = await client(*command(client, "ls"), name, "/home/work/sub/dir")
        assert "caf\u00e9 %41.bin" in listed.out, listed
        refused = await client(*command(client, "ls"), name, "/home/work/nothing")
        assert refused.code == 1, refused
        got = await client(*command(client, "download"), name, names[0], "sub", "--dest", "out", cwd=tmp_path)
        assert got.code == 0, got
        assert (tmp_path / "out" / names[0]).read_text() == "one"
        (found,) = (tmp_path / "out").rglob("caf*")
        assert (found.name, found.read_bytes() == big) == ("caf\u00e9 %41.bin", True)
        with trio.fail_after(COMMAND_WITHIN):
            async with client.running("run", "-t", name, "-c", waiting + "\nprint('done')", "python") as run:
                await run.until("begun")
                assert (await client(*logs, name)).out.count("begun") == 1
                await client(*command(client, "upload"), name, "go", cwd=tmp_path)
                await run.until("done")
    # Now it has ended.
    with trio.fail_after(COMMAND_WITHIN):
        while "done" not in (said := await client(*logs, session_id)).out:
            assert said.code == 0, said


async def until_streams(service: Service, count: int) -> None:
    """Until so many listen to events: nothing else tells when a client does."""
    mark = f'backendai_open_streams{{kind="events"}} {count}.0'
    async with httpx.AsyncClient(base_url=service.endpoint) as http:
        with trio.fail_after(COMMAND_WITHIN):
            while mark not in (await http.get("/metrics")).text:
                await trio.sleep(0.05)


async def test_batch_sessions_and_their_events(client: Client, service: Service, tmp_path: Path) -> None:
    lay_down(tmp_path, {"go": ""})
    options = ("--type", "batch", "-c", f"echo working; {GO}; echo over; exit 3", "--starts-at", "1s")
    with trio.fail_after(2 * COMMAND_WITHIN):
        async with (
            session(client, *options, "python") as (name, session_id),
            client.running(*command(client, "events"), name) as events,
        ):
            await until_streams(service, 1)
            sent = await client(*command(client, "upload"), name, "go", cwd=tmp_path)
            assert sent.code == 0, sent
            seen = await events.until("session_terminated")
        assert "session_failure" in seen
        assert re.search(r"exitCode['\"]: 3", seen), seen
        while "over" not in (said := await client(*client.generation.logs, session_id)).out:
            assert said.code == 0, said
    listed = await client("ps", "--dead")
    row = next(line for line in listed.out.splitlines() if name in line)
    assert "TERMINATED" in row, listed
    assert "FAILURE" in row, listed


async def test_batch_sessions_that_are_watched(client: Client, service: Service, tmp_path: Path) -> None:
    if client.generation.version in ("20.3.10", "22.3.2"):
        pytest.skip("these clients have no `session watch`")
    lay_down(tmp_path, {"go": ""})
    first = ("--type", "batch", "-c", GO, "python")
    second = ("--type", "batch", "--enqueue-only", "-c", "exit 5")
    with trio.fail_after(2 * COMMAND_WITHIN):
        async with (
            session(client, *first) as (name, first_id),
            session(client, *second, "--depends", first_id, "python", letter="w") as (waiting, _),
            client.running("session", "watch", waiting) as watch,
        ):
            await until_streams(service, 1)
            await client("session", "upload", name, "go", cwd=tmp_path)
            seen = await watch.rest()
    assert "session_started" in seen.out + seen.err, seen
    assert "session_failure" in seen.out + seen.err, seen
    assert seen.code == 5, seen
