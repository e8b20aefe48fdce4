"""Runs of mode ``batch``: clean, build and execute what was uploaded, each a shell command in the sandbox.

With the option ``buildLog`` what the build prints comes as items of kind ``log``, apart from what the program
itself prints; otherwise it comes as the streams it is written to.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

from backendai.core.execution import RunStatus
from backendai.core.kernel import STARTUP_RUN, ImageSpec
from backendai.engines.contract import Entered, Sandbox, SandboxFailed
from backendai.runner.items import Piece
from backendai.runner.journal import PrintLog
from backendai.runner.recipes import build_recipe, clean_recipe, exec_recipe
from backendai.runner.runs import Run

_CHUNK = 64 << 10
#: What a step asks for its language's usual way with.
_USUAL = "*"
#: Seconds that output may still come when the command has ended: others may hold its pipes for ever.
_DRAIN = 0.5
#: Seconds between looks whether the command waits for input.
_LOOK = 0.2
#: Seconds between the interrupt of a run that printed too much and its end.
_LIMIT_PATIENCE = 3.0
#: Exit codes as shells have them: cannot be executed, interrupted.
_CANNOT, _INTERRUPTED = 126, 130


class Batch:
    """Executes one run at a time."""

    def __init__(
        self, sandbox: Sandbox, environ: Callable[[], Mapping[str, str]], image: ImageSpec, log: PrintLog
    ) -> None:
        self._sandbox = sandbox
        self._environ = environ
        self._language = image.language
        self._log = log
        self._process: Entered | None = None
        self._interrupted = False

    async def execute(self, run: Run) -> None:
        """Execute all steps, and finish the run with the exit code of the last that was begun."""
        self._interrupted = False
        await self._step(run, "clean", clean_recipe, RunStatus.CLEAN_FINISHED)
        code = await self._step(run, "build", build_recipe, RunStatus.BUILD_FINISHED)
        if code == 0:
            code = await self._step(run, "exec", exec_recipe, None)
        run.finish(code)

    def interrupt(self) -> None:
        """What Ctrl-C does; no further step is begun."""
        self._interrupted = True
        if self._process is not None:
            self._process.interrupt()

    async def _step(self, run: Run, name: str, usual: Callable[[str], str], status: RunStatus | None) -> int:
        command = run.options.get(name)
        code = 0
        if self._interrupted:
            code = _INTERRUPTED
        elif isinstance(command, str) and command:
            apart = name == "build" and run.options.get("buildLog") is True
            kinds = ("log", "log") if apart else ("stdout", "stderr")
            code = await self._execute(run, usual(self._language) if command == _USUAL else command, kinds)
        if status is not None:
            run.end_step(status, code)
        return code

    async def _execute(self, run: Run, command: str, kinds: tuple[str, str]) -> int:
        environ = self._environ()
        try:
            async with self._sandbox.enter((environ["SHELL"], "-c", command), environ=environ) as process:
                self._process = process
                return await self._attend(run, process, kinds)
        except SandboxFailed as error:
            run.note(f"[the command cannot be executed: {error.detail}]\n")
            return _CANNOT
        finally:
            self._process = None

    async def _attend(self, run: Run, process: Entered, kinds: tuple[str, str]) -> int:
        """Pass on what it prints, as items of these kinds, and what it is given, until it has ended."""
        assert process.errors is not None
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as readers:
                nursery.start_soon(self._ask_for_input, run, process)
                readers.start_soon(self._read, run, kinds[0], process.output, nursery)
                readers.start_soon(self._read, run, kinds[1], process.errors, nursery)
                code = await process.wait()
                readers.cancel_scope.deadline = trio.current_time() + _DRAIN
            nursery.cancel_scope.cancel()
        return code

    async def _read(self, run: Run, kind: str, stream: trio.abc.ReceiveStream, nursery: trio.Nursery) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while data := await stream.receive_some(_CHUNK):
                self._log.write(data)
                self._show(run, nursery, Piece(kind, decoder.decode(data)))
        finally:
            run.append(Piece(kind, decoder.decode(b"", final=True)))

    async def _ask_for_input(self, run: Run, process: Entered) -> None:
        """Nobody is there to answer the command of a batch session."""
        if run.run_id == STARTUP_RUN:
            await process.input.aclose()
            return
        while True:
            await trio.sleep(_LOOK)
            if run.input_options is None and process.wants_input():
                run.wait_for_input(is_password=False)

    async def give_input(self, run: Run, line: str) -> None:
        """A line for the command of ``run``; nothing happens when it does not wait for one."""
        if run.input_options is not None and self._process is not None:
            run.input_given()
            with suppress(trio.BrokenResourceError):  # it has ended meanwhile
                await self._process.input.send_all(line.encode() + b"\n")

    def _show(self, run: Run, nursery: trio.Nursery, piece: Piece) -> None:
        was_whole = not run.truncated
        run.append(piece)
        if was_whole and run.truncated:
            self.interrupt()
            nursery.start_soon(self._end_late)

    async def _end_late(self) -> None:
        process = self._process
        with trio.move_on_after(_LIMIT_PATIENCE):
            if process is not None:
                await process.wait()
            return
        if process is not None:
            process.kill()
