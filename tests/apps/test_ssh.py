"""``ssh`` and ``scp`` of the official clients, which call those of the machine."""

from __future__ import annotations

import os
import pty
import shutil
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tunnels import AppClient

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(
        shutil.which("ssh") is None,
        reason="no ssh on this machine; on Debian: apt-get install openssh-client",
    ),
]

_PATIENCE = 120.0


@pytest.mark.parametrize("version", ["23.9.10", "25.5.2", "26.9.6"])
def test_commands_and_copies(
    version: str, client_of: Callable[[str], AppClient], lab: str, tmp_path: Path
) -> None:
    client = client_of(version)
    big = os.urandom(1 << 20)
    (tmp_path / "there" / "ä b").mkdir(parents=True)
    (tmp_path / "there" / "ä b" / "big").write_bytes(big)

    done = client.over_ssh(tmp_path, "scp", "-r", lab, "there", f"work@localhost:copied-{version}")
    assert done.returncode == 0, done
    command = f"cat copied-{version}/*/big; echo said >&2; exit 7"
    done = client.over_ssh(tmp_path, "ssh", lab, command)
    assert (done.returncode, done.stdout[-len(big) :]) == (7, big)
    assert b"said\n" in done.stderr
    done = client.over_ssh(tmp_path, "scp", "-r", lab, f"work@localhost:copied-{version}", "back")
    assert done.returncode == 0, done
    assert (tmp_path / "back" / "ä b" / "big").read_bytes() == big


async def test_a_shell_at_a_terminal(client_of: Callable[[str], AppClient], lab: str, tmp_path: Path) -> None:
    client = client_of("26.9.6")
    screen, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 91))

    async def until(mark: bytes) -> bytes:
        seen = b""
        while mark not in seen:
            await trio.lowlevel.wait_readable(screen)
            seen += os.read(screen, 4096)
        return seen

    async def use() -> None:
        await until(b"$ ")
        os.write(screen, b"stty size; tty; echo sum-$((6*7))\n")
        seen = await until(b"\nsum-42")
        assert b"33 91" in seen
        assert b"/dev/pts/" in seen
        os.write(screen, b"echo begun-$((1+1)); cat\n")
        await until(b"\nbegun-2")
        os.write(screen, b"\x03")
        await until(b"$ ")
        os.write(screen, b"exit 5\n")

    try:
        with trio.fail_after(_PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                done = await trio.to_thread.run_sync(
                    lambda: client.over_ssh(tmp_path, "ssh", lab, terminal=slave)
                )
        assert done.returncode == 5
    finally:
        os.close(slave)
        os.close(screen)
