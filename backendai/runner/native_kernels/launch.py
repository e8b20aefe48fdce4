"""Jupyter kernels for Bash, C and C++. Runs inside the sandbox and imports nothing of ours.

Bash keeps one shell for all cells. C and C++ compile each cell and run it; a cell without ``main`` is the
body of one. What the programs print is passed on as it comes, and who reads standard input is given a line
from the user.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
from abc import ABCMeta, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

sys.modules["debugpy"] = None  # type: ignore[assignment]

from ipykernel.kernelapp import IPKernelApp  # noqa: E402
from ipykernel.kernelbase import Kernel  # noqa: E402
from traitlets.traitlets import MetaHasTraits  # noqa: E402

_CHUNK = 64 << 10
#: Seconds without output after which it is looked whether somebody waits for input.
_LOOK = 0.1
#: Interrupts after which a program that ignores them is killed.
_PATIENCE = 3
#: System call number of read(2).
_READ = {"x86_64": "0", "aarch64": "63"}.get(os.uname().machine)
_MOST_COMPLETIONS = 200


class _KernelType(MetaHasTraits, ABCMeta):
    """Kernels are configured by traits, which have a metaclass too."""


class Programs(Kernel, metaclass=_KernelType):
    """What the kernels have in common: programs whose output is the user's to see."""

    implementation = "backendai"
    implementation_version = "1"
    banner = ""

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        self._allow_stdin = allow_stdin
        self._silent = silent
        exit_code = self.execute(code) if code.strip() else 0
        if exit_code == 0:
            return {
                "status": "ok",
                "execution_count": self.execution_count,
                "payload": [],
                "user_expressions": {},
            }
        # How Jupyter says it of scripts in Python.
        return {
            "status": "error",
            "execution_count": self.execution_count,
            "ename": "SystemExit",
            "evalue": str(exit_code),
            "traceback": [],
        }

    @abstractmethod
    def execute(self, code: str) -> int:
        """Run a cell and return its exit code, 128 + signal for one that was killed."""

    def show(self, name: str, data: bytes) -> None:
        if data and not self._silent:
            text = data.decode(errors="replace")
            self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})  # type: ignore[no-untyped-call]


class Attendance:
    """Output passed on and input asked for, while a program runs."""

    def __init__(self, kernel: Programs, stdout: int, stderr: int, stdin: int, victim: int) -> None:
        self._kernel = kernel
        self._names = {stdout: "stdout", stderr: "stderr"}
        self._stdin = stdin
        self._victim = victim
        self._pipe = os.readlink(f"/proc/self/fd/{stdin}")
        self._selector = selectors.DefaultSelector()
        self._interrupts = 0
        #: Bytes of a character that has not come as a whole.
        self._rest = {stdout: b"", stderr: b""}
        for handle in self._names:
            os.set_blocking(handle, False)
            self._selector.register(handle, selectors.EVENT_READ)

    def __enter__(self) -> Attendance:
        return self

    def __exit__(self, *_: object) -> None:
        self.step(0)
        for handle, rest in self._rest.items():
            self._kernel.show(self._names[handle], rest)
        self._selector.close()

    def step(self, patience: float = _LOOK) -> None:
        """Pass on what is there or comes soon; an interrupt went to the program as well."""
        try:
            ready = self._selector.select(patience)
            for key, _ in ready:
                self._pass_on(key.fd)
            if not ready and patience and self._somebody_reads():
                line = self._kernel.raw_input("")  # type: ignore[no-untyped-call]
                with suppress(BrokenPipeError):  # it has ended meanwhile
                    os.write(self._stdin, line.encode() + b"\n")
        except KeyboardInterrupt:
            self._interrupts += 1
            if self._interrupts >= _PATIENCE:
                with suppress(ProcessLookupError):
                    os.kill(self._victim, signal.SIGKILL)

    def _pass_on(self, handle: int) -> None:
        with suppress(BlockingIOError):
            while data := os.read(handle, _CHUNK):
                whole, self._rest[handle] = _whole_characters(self._rest[handle] + data)
                self._kernel.show(self._names[handle], whole)
            self._selector.unregister(handle)

    def _somebody_reads(self) -> bool:
        """Whether a process is blocked in reading the pipe that is its standard input."""
        if not self._kernel._allow_stdin:
            return False
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and os.readlink(f"/proc/{entry}/fd/0") == self._pipe:
                    call = Path("/proc", entry, "syscall").read_text().split()
                    if len(call) > 1 and call[0] == _READ and call[1] == "0x0":
                        return True
        return False


def _whole_characters(data: bytes) -> tuple[bytes, bytes]:
    """Split off the beginning of a UTF-8 character at the end."""
    for length in range(1, min(4, len(data) + 1)):
        first = data[-length]
        if first >= 0xC0:
            needed = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            return (data[:-length], data[-length:]) if needed > length else (data, b"")
        if first < 0x80:
            break
    return data, b""


class Bash(Programs):
    language = "bash"
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh"}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._shell: subprocess.Popen[bytes] | None = None
        self._cell = os.path.join(tempfile.mkdtemp(prefix="kernel-"), "cell")

    def execute(self, code: str) -> int:
        shell = self._shell if self._shell is not None and self._shell.poll() is None else self._start()
        Path(self._cell).write_text(code + "\n")
        with Attendance(self, self._out, self._err, self._input[1], shell.pid) as attendance:
            self._send(f". '{self._cell}' <&{self._input[0]} {self._done[1]}>&- {self._input[0]}<&-")
            self._send(f"printf '%s\\n' $? >&{self._done[1]}")
            while True:
                attendance.step()
                if said := self._read_done():
                    return int(said)
                if shell.poll() is not None:  # the cell said exit
                    return shell.returncode if shell.returncode >= 0 else 128 - shell.returncode

    def _start(self) -> subprocess.Popen[bytes]:
        """An interactive shell, which an interrupt does not end; it has no terminal all the same."""
        self._input, self._done = os.pipe(), os.pipe()
        os.set_blocking(self._done[0], False)
        shell = self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PS1": "", "PS2": ""},
            pass_fds=[self._input[0], self._done[1]],
        )
        assert shell.stdout is not None
        assert shell.stderr is not None
        self._out, self._err = shell.stdout.fileno(), shell.stderr.fileno()
        self._send(f"set +H; printf '0\\n' >&{self._done[1]}")
        while not self._read_done():
            selectors_wait(self._done[0])
        os.read(self._err, _CHUNK)  # that it has no terminal
        return shell

    def _send(self, line: str) -> None:
        assert self._shell is not None
        commands: IO[bytes] | None = self._shell.stdin
        assert commands is not None
        with suppress(BrokenPipeError):
            commands.write(line.encode() + b"\n")
            commands.flush()

    def _read_done(self) -> str:
        try:
            return os.read(self._done[0], 100).decode().strip()
        except BlockingIOError:
            return ""

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        word = re.split(r"[\s;|&()<>`'\"]", code[:cursor_pos])[-1]
        begins = not code[:cursor_pos].removesuffix(word).strip().rpartition("\n")[2]
        kinds = "-c -f" if begins else "-f -v"
        script = f'compgen {kinds} -- "$1" | sort -u | head -n {_MOST_COMPLETIONS}'
        where = f"/proc/{self._shell.pid}/cwd" if self._shell is not None else "."
        found = subprocess.run(  # noqa: ASYNC221  nothing else runs here
            ["bash", "-c", script, "bash", word.lstrip("$")], capture_output=True, cwd=where, check=False
        )
        return {
            "matches": found.stdout.decode(errors="replace").splitlines(),
            "cursor_start": cursor_pos - len(word.lstrip("$")),
            "cursor_end": cursor_pos,
            "metadata": {},
            "status": "ok",
        }

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        if self._shell is not None:
            self._shell.kill()
        return {"status": "ok", "restart": restart}


def selectors_wait(handle: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        selector.select()


class Compiled(Programs):
    compiler: tuple[str, ...]
    suffix: str
    headers: tuple[str, ...]
    opening = ""

    def execute(self, code: str) -> int:
        with tempfile.TemporaryDirectory(prefix="cell-") as directory:
            source, program = os.path.join(directory, f"cell{self.suffix}"), os.path.join(directory, "cell")
            Path(source).write_text(self._whole(code))
            compiled = self._run([*self.compiler, source, "-o", program, "-lm", "-pthread"])
            return compiled or self._run([program])

    def _whole(self, code: str) -> str:
        if re.search(r"\bmain\s*\(", code):
            return code + "\n"
        lines = code.split("\n")
        # Directives stay in front, wherever they were; line numbers in messages remain true.
        before = "\n".join(line for line in lines if line.lstrip().startswith("#"))
        body = "\n".join("" if line.lstrip().startswith("#") else line for line in lines)
        includes = "".join(f"#include <{header}>\n" for header in self.headers)
        return f'{includes}{before}\n{self.opening}int main(void) {{\n#line 1 "cell"\n{body}\nreturn 0;\n}}\n'

    def _run(self, argv: list[str]) -> int:
        stdin = os.pipe()
        process = subprocess.Popen(
            argv, stdin=stdin[0], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with process.stdout as out, process.stderr as err:
                os.close(stdin[0])
                with Attendance(self, out.fileno(), err.fileno(), stdin[1], process.pid) as attendance:
                    while process.poll() is None:
                        attendance.step()
        finally:
            os.close(stdin[1])
        if process.returncode >= 0:
            return process.returncode
        self.show("stderr", f"{signal.strsignal(-process.returncode)}\n".encode())
        return 128 - process.returncode


class C(Compiled):
    language = "c"
    language_info = {"name": "c", "mimetype": "text/x-csrc", "file_extension": ".c"}  # noqa: RUF012
    compiler = ("gcc", "-xc")
    suffix = ".c"
    headers = ("stdio.h", "stdlib.h", "string.h", "stdint.h", "math.h")


class Cpp(Compiled):
    language = "c++"
    language_info = {"name": "c++", "mimetype": "text/x-c++src", "file_extension": ".cpp"}  # noqa: RUF012
    compiler = ("g++",)
    suffix = ".cpp"
    headers = ("iostream", "string", "vector", "map", "algorithm", "cmath")
    opening = "using namespace std;\n"


_KERNELS = {"bash": Bash, "c": C, "cpp": Cpp}

if __name__ == "__main__":
    app = IPKernelApp.instance(kernel_class=_KERNELS[sys.argv[1]])
    app.initialize([*sys.argv[2:], "--log-level=50"])  # type: ignore[no-untyped-call]
    app.start()  # type: ignore[no-untyped-call]
