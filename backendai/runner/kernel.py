"""Talking with one living kernel process: readiness, runs, input, completion, interrupts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from backendai.core.execution import CompletionRequest
from backendai.engines.contract import Sandbox
from backendai.runner.channels import Channels
from backendai.runner.items import Piece, exit_code_of, pieces_of
from backendai.runner.journal import PrintLog
from backendai.runner.runs import Run, RunBook
from backendai.wire.jupyter import Header, JupyterMessage

#: Seconds between attempts to hear the kernel on iopub, once it answers on shell.
_SUBSCRIBE_RETRY = 0.02
#: Seconds that a run's last output may come after the kernel's reply to it.
_IDLE_GRACE = 5.0
_COMPLETE_TIMEOUT = 5.0
_SILENT_TIMEOUT = 15.0
#: A run over its limit is interrupted this often, this many seconds apart, in case it catches the first.
_LIMIT_INTERRUPTS, _LIMIT_PAUSE = 5, 1.0
_LIMIT_PATIENCE = 0.1
#: Seconds between the kernel's answer to a later question and giving up its reply to an interrupted run.
_LOST_GRACE = 0.5


class KernelRefused(Exception):
    """The kernel answered with an error, or not in time."""


@dataclass(slots=True)
class _Exchange:
    """A request on shell or control under way: its reply, and whether iopub said that its work is done."""

    reply: dict[str, Any] = field(default_factory=dict)
    replied: trio.Event = field(default_factory=trio.Event)
    idle: trio.Event = field(default_factory=trio.Event)
    run: Run | None = None
    #: Somebody makes sure that it ends although it was interrupted.
    minded: bool = False


class Kernel:
    """``run()`` must be running for the other methods to come back."""

    def __init__(
        self, sandbox: Sandbox, channels: Channels, book: RunBook, log: PrintLog, interrupt_mode: str
    ) -> None:
        self._sandbox = sandbox
        self._channels = channels
        self._book = book
        self._log = log
        self._interrupt_mode = interrupt_mode
        self._exchanges: dict[str, _Exchange] = {}
        self._heard_iopub = trio.Event()
        self._executing: _Exchange | None = None

    async def run(self) -> None:
        """Receive on every channel until cancelled."""
        async with trio.open_nursery() as nursery:
            self._tasks = nursery
            nursery.start_soon(self._receive_iopub)
            nursery.start_soon(self._receive_replies, "shell")
            nursery.start_soon(self._receive_replies, "control")
            nursery.start_soon(self._receive_input_requests)

    async def become_ready(self) -> None:
        """Return once the kernel answers and what it prints arrives. Bounded by the caller."""
        await self._ask("shell", "kernel_info_request", {})
        while not self._heard_iopub.is_set():
            with trio.move_on_after(_SUBSCRIBE_RETRY):
                await self._heard_iopub.wait()
                return
            await self._ask("shell", "kernel_info_request", {})

    async def execute(self, run: Run) -> None:
        """Execute the code of a run and finish it."""
        exchange = _Exchange(run=run)
        content = {
            "code": run.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": False,
        }
        with self._registered("execute_request", content, exchange) as frames:
            self._executing = exchange
            await self._channels.send("shell", frames)
            await exchange.replied.wait()
            with trio.move_on_after(_IDLE_GRACE) as grace:
                await exchange.idle.wait()
        if grace.cancelled_caught:
            run.note("[the kernel did not say that its output is complete]\n")
        run.finish(exit_code_of(exchange.reply))

    async def execute_silently(self, code: str) -> None:
        """Execute code that belongs to no run. Raises :class:`KernelRefused`."""
        content = {
            "code": code,
            "silent": True,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        reply: dict[str, Any] = {}
        with trio.move_on_after(_SILENT_TIMEOUT):
            reply = await self._ask("shell", "execute_request", content)
        if reply.get("status") != "ok":
            raise KernelRefused(str(reply.get("ename") or "no answer in time"))

    async def give_input(self, run: Run, line: str) -> None:
        """Answer the input request of ``run``; nothing happens when it does not wait for one."""
        if run.input_options is not None:
            run.input_given()
            await self._tell("stdin", "input_reply", {"value": line, "status": "ok"})

    async def interrupt(self) -> None:
        """Interrupt the way the kernelspec asks for."""
        if self._interrupt_mode == "message":
            await self._tell("control", "interrupt_request", {})
        else:
            self._sandbox.interrupt()
        if self._executing is not None and not self._executing.minded:
            self._executing.minded = True
            self._tasks.start_soon(self._see_interrupted, self._executing)

    async def _see_interrupted(self, exchange: _Exchange) -> None:
        """A kernel that was just finishing may have dropped the reply with the interrupt.

        It has when it answers what was asked after the run but not the run: requests are served in order.
        """
        await self._ask("shell", "kernel_info_request", {})
        with trio.move_on_after(_LOST_GRACE):
            await exchange.replied.wait()
            return
        exchange.reply = {"status": "aborted"}
        exchange.replied.set()
        exchange.idle.set()

    async def ask_to_end(self) -> None:
        await self._tell("control", "shutdown_request", {"restart": False})

    async def complete(self, request: CompletionRequest) -> tuple[str, ...]:
        """Completions, none when the kernel does not answer in time."""
        code, position = _cursor(request)
        with trio.move_on_after(_COMPLETE_TIMEOUT):
            reply = await self._ask("shell", "complete_request", {"code": code, "cursor_pos": position})
            matches = reply.get("matches")
            return (
                tuple(text for text in matches if isinstance(text, str)) if isinstance(matches, list) else ()
            )
        return ()

    # -- requests and what comes back ------------------------------------------------------------------------

    async def _tell(self, channel: str, kind: str, content: dict[str, Any]) -> None:
        _, frames = self._channels.prepare(kind, content)
        await self._channels.send(channel, frames)

    async def _ask(self, channel: str, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        exchange = _Exchange()
        with self._registered(kind, content, exchange) as frames:
            await self._channels.send(channel, frames)
            await exchange.replied.wait()
        return exchange.reply

    @contextmanager
    def _registered(self, kind: str, content: dict[str, Any], exchange: _Exchange) -> Iterator[list[bytes]]:
        msg_id, frames = self._channels.prepare(kind, content)
        self._exchanges[msg_id] = exchange
        try:
            yield frames
        finally:
            del self._exchanges[msg_id]

    async def _receive_replies(self, channel: str) -> None:
        async for message in self._channels.received(channel):
            exchange = self._exchanges.get(message.parent.msg_id)
            if exchange is not None and message.kind.endswith("_reply"):
                exchange.reply = message.content
                exchange.replied.set()

    async def _receive_iopub(self) -> None:
        async for message in self._channels.received("iopub"):
            self._heard_iopub.set()
            if message.kind == "status":
                self._note_status(message.parent, message.content)
            else:
                self._print(message)

    def _note_status(self, parent: Header, content: dict[str, Any]) -> None:
        exchange = self._exchanges.get(parent.msg_id)
        if exchange is not None and content.get("execution_state") == "idle":
            exchange.idle.set()

    def _print(self, message: JupyterMessage) -> None:
        """Output goes to the run it belongs to while that lasts, that of threads to the run of now."""
        exchange = self._exchanges.get(message.parent.msg_id)
        run = exchange.run if exchange is not None and exchange.run is not None else self._book.current
        for piece in pieces_of(message.kind, message.content):
            if piece.kind in ("stdout", "stderr"):
                self._log.write(piece.data.encode(errors="replace"))
            if run is not None:
                was_whole = not run.truncated
                run.append(piece)
                if was_whole and run.truncated:
                    self._tasks.start_soon(self._stop_over_limit, run)

    async def _stop_over_limit(self, run: Run) -> None:
        # Most programs that print too much come to an end all the same, at about this moment.
        await trio.sleep(_LIMIT_PATIENCE)
        for _ in range(_LIMIT_INTERRUPTS):
            if run.finished or self._book.current is not run:
                return
            await self.interrupt()
            await trio.sleep(_LIMIT_PAUSE)

    async def _receive_input_requests(self) -> None:
        async for message in self._channels.received("stdin"):
            run = self._book.current
            if message.kind != "input_request" or run is None:
                continue
            prompt = message.content.get("prompt")
            if isinstance(prompt, str) and prompt:
                run.append(Piece("stdout", prompt))
            run.wait_for_input(is_password=message.content.get("password") is True)


def _cursor(request: CompletionRequest) -> tuple[str, int]:
    """Code and place of the cursor in it, in characters. Without the whole cell, the line alone must do."""
    lines = request.code.split("\n")
    if not request.code or not 0 <= request.row < len(lines):
        return request.line + request.post, len(request.line)
    column = max(0, min(request.col, len(lines[request.row])))
    return request.code, sum(len(line) + 1 for line in lines[: request.row]) + column
