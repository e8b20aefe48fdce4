"""Who enters a sandbox from outside is one of its, and stays in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from backendai.core.kernel import KernelLimits
from backendai.engines.contract import Entered, Sandbox, SandboxFailed
from backendai.engines.process import ProcessEngine
from tests.engines.ordinary_user import NOBODY
from tests.engines.test_process import as_root, kernel_directory, request

__all__ = ["kernel_directory"]

_ENVIRON = {"PATH": "/usr/bin:/bin", "MARK": "entered"}
_SERVER = "import socket; s = socket.create_server(('127.0.0.1', 4000)); print('up', flush=True)\n" + (
    "while True:\n c, _ = s.accept(); c.sendall(b'inside'); c.close()"
)


@asynccontextmanager
async def sandbox(
    directory: Path, script: str = "echo up; sleep 1000", **options: object
) -> AsyncIterator[Sandbox]:
    with trio.fail_after(20):
        async with ProcessEngine.of_this_host().open(request(directory, script, **options)) as opened:
            assert await opened.output.receive_some() == b"up\n"
            yield opened


async def said(process: Entered) -> str:
    output = b""
    async for data in process.output:
        output += data
    return output.decode()


async def test_it_is_like_everybody_inside(kernel_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER_SECRET", "visible?")
    script = (
        "id -u; pwd; hostname; echo $MARK; env | grep -c OUTER; cat /proc/1/cmdline | head -c 5; echo;"
        "grep -E '^(Cap|NoNewPrivs)' /proc/self/status; ls /proc/self/fd | wc -l;"
        "touch mine; cat /etc/shadow; ls /root; unshare -U true; echo told >/dev/stderr"
    )
    async with (
        sandbox(kernel_directory) as kernel,
        kernel.enter(("sh", "-c", script), environ=_ENVIRON) as process,
    ):
        lines = (await said(process)).splitlines()
        assert lines[:6] == ["1000", "/home/work", "main1", "entered", "0", "bwrap"]
        assert lines[6:] == [
            *(f"Cap{name}:\t{0:016}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
            "NoNewPrivs:\t1",
            "4",
        ]
        assert process.errors is not None
        errors = b"".join([data async for data in process.errors]).decode()
        assert errors.count("No such file") == 2
        assert errors.endswith("told\n")
        assert await process.wait() == 0
        inside, outside = (os.stat(kernel_directory / "home" / name) for name in ("mine", "."))
        assert inside.st_uid == outside.st_uid


async def test_its_limits_are_those_of_the_kernel(kernel_directory: Path) -> None:
    limits = KernelLimits(pids=12, open_files=99, disk=1 << 20)
    loop = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 100 >/dev/null 2>&1 & done; echo made"
    async with sandbox(kernel_directory, limits=limits) as kernel:
        async with kernel.enter(("sh", "-c", "ulimit -n; head -c 2m /dev/zero > f"), environ=_ENVIRON) as one:
            assert await said(one) == "99\n"
            assert await one.wait() != 0
        async with kernel.enter(("sh", "-c", loop), environ=_ENVIRON) as other:
            assert "made" not in await said(other)


async def test_a_terminal_is_one_of_the_sandbox(kernel_directory: Path) -> None:
    script = "stty size; tty; echo here > $(tty); read line; stty size; exit 5"
    async with (
        sandbox(kernel_directory) as kernel,
        kernel.enter(("sh", "-c", script), environ=_ENVIRON, terminal=(30, 90)) as process,
    ):
        screen = b""
        while b"here" not in screen:
            screen += await process.output.receive_some()
        process.resize(40, 100)
        await process.input.send_all(b"go\n")
        screen += (await said(process)).encode()
        assert screen.decode().split() == ["30", "90", "/dev/pts/0", "here", "go", "40", "100"]
        assert await process.wait() == 5


async def test_input_interrupt_and_end(kernel_directory: Path) -> None:
    async with sandbox(kernel_directory) as kernel:
        async with kernel.enter(("cat",), environ=_ENVIRON) as process:
            await process.input.send_all(b"back")
            assert await process.output.receive_some() == b"back"
            process.interrupt()
            assert await process.wait() == 130
        async with kernel.enter(("sleep", "1000"), environ=_ENVIRON):
            pass
        async with kernel.enter(("pgrep", "-xc", "sleep"), environ=_ENVIRON) as process:
            assert int(await said(process)) == 1


async def test_it_ends_with_the_sandbox(kernel_directory: Path) -> None:
    async with (
        sandbox(kernel_directory) as kernel,
        kernel.enter(("sh", "-c", "setsid sleep 1000 & sleep 1000"), environ=_ENVIRON) as process,
    ):
        kernel.kill()
        assert await process.wait() == 137
        assert await said(process) == ""
        with pytest.raises(SandboxFailed):
            async with kernel.enter(("true",), environ=_ENVIRON):
                pass


async def test_what_is_not_there_is_told(kernel_directory: Path) -> None:
    async with sandbox(kernel_directory) as kernel:
        with pytest.raises(SandboxFailed, match="No such file"):
            async with kernel.enter(("no-such-command",), environ=_ENVIRON):
                pass


async def test_connections_are_made_inside(kernel_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outer:
        async with sandbox(kernel_directory, argv=("/usr/bin/python3", "-c", _SERVER)) as kernel:
            for _ in range(40):
                async with await kernel.connect(4000) as stream:
                    assert await stream.receive_some() == b"inside"
            for port in (4001, outer.getsockname()[1]):
                with pytest.raises(ConnectionRefusedError):
                    await kernel.connect(port)


async def test_an_errand_sees_what_the_kernel_sees(kernel_directory: Path) -> None:
    def work(channel: socket.socket) -> None:
        name = channel.recv(100).decode()
        try:
            text = Path(name).read_text()
        except OSError as error:
            text = type(error).__name__
        channel.sendall(text.encode())

    (kernel_directory / "home" / "file").write_text("content")
    (kernel_directory / "of-the-host").write_text("not for the kernel")
    (kernel_directory / "home" / "link").symlink_to(kernel_directory / "of-the-host")
    async with sandbox(kernel_directory) as kernel:
        answers = []
        for name in ("file", "link", "/proc/1/environ", "../../etc/hostname"):
            async with kernel.errand(work) as channel:
                await channel.send_all(name.encode())
                answers.append((await channel.receive_some()).decode())
    assert answers == ["content", "FileNotFoundError", "", "main1\n"]


async def test_a_caller_may_give_up_at_any_time(kernel_directory: Path) -> None:
    async with sandbox(kernel_directory) as kernel:
        for pause in (0.0, 0.0005, 0.002, 0.005, 0.02):
            with trio.move_on_after(pause):
                async with kernel.enter(("sleep", "1000"), environ=_ENVIRON):
                    await trio.sleep_forever()
        async with kernel.enter(("pgrep", "-xc", "sleep"), environ=_ENVIRON) as process:
            assert int(await said(process)) == 1


class _BecomeNobody:
    """Once everything is imported, which nobody may not be allowed to read."""

    def pytest_collection_finish(self) -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


@as_root
def test_an_ordinary_user_enters_just_so() -> None:
    """All of the above again, with nobody's rights."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        result = subprocess.run(
            [sys.executable, "-m", "tests.engines.test_entering", name],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=60,
            check=False,
        )
    assert result.returncode == 0, result.stdout.decode()[-3000:]


if __name__ == "__main__":
    options = ["-q", "-p", "no:cacheprovider", "-k", "not ordinary", f"--basetemp={sys.argv[1]}/t", __file__]
    sys.exit(pytest.main(options, plugins=[_BecomeNobody()]))
