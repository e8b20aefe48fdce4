"""A PostgreSQL and a Valkey for a test run, held by a process of their own: ``python -m live.servers``.

The session's fixtures cannot hold them: they run outside of Trio. Prints the addresses as one JSON line and
stops when its input ends, however the test run came to its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from backendai.embedded.postgres import open_postgres
from backendai.embedded.valkey import open_valkey

_ROOT = Path(__file__).parents[2]


@contextmanager
def running_servers() -> Iterator[dict[str, str]]:
    """The servers' addresses, ``postgres`` and ``redis``, for the length of the body."""
    environ = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'tests'}"}
    with subprocess.Popen(
        [sys.executable, "-m", "live.servers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the servers for the tests did not start; their complaint is above")
        yield json.loads(line)


async def _main() -> None:
    with tempfile.TemporaryDirectory(prefix="bai-test-", dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o711)  # root's PostgreSQL is another user and passes through
        # Nothing in these is worth an fsync.
        async with (
            open_postgres(place / "postgres", place, durable=False) as postgres,
            open_valkey(place, log=place / "valkey.log") as valkey,
        ):
            print(json.dumps({"postgres": postgres.url.reveal(), "redis": valkey.url.reveal()}), flush=True)
            await trio.lowlevel.wait_readable(sys.stdin.fileno())


if __name__ == "__main__":
    trio.run(_main)
