"""Start ipykernel without what a session has no use for. Runs inside the sandbox and imports nothing of ours.

Against the plain launcher: no debugger, which nobody can reach and which takes a fifth of the start; no
history database; completion without jedi, whose first answer takes seconds; no words about itself in the
session's log; no news that the runner does not listen to; and output that leaves from the thread that has it,
see :class:`Publisher`.
"""

from __future__ import annotations

# Its twin without the underscore is slow: it makes enumerations.
import _signal as signal  # type: ignore[import-not-found]
import json
import logging
import os
import select
import sys
import threading
import warnings
from types import FrameType
from typing import Any

sys.modules["debugpy"] = None  # type: ignore[assignment]

import zmq  # noqa: E402
from ipykernel import kernelapp  # noqa: E402
from ipykernel.iostream import IOPubThread, OutStream  # noqa: E402
from ipykernel.ipkernel import IPythonKernel  # noqa: E402
from jupyter_client.jsonutil import json_default  # noqa: E402
from jupyter_client.session import json_packer  # noqa: E402

#: Bytes that fit into a pipe.
_PIPE = 64 << 10


class _Whole:
    """What is done inside is done to the end: an interrupt of the main thread comes right after it."""

    __slots__ = ("_handler", "_interrupted")

    def __enter__(self) -> None:
        self._interrupted: FrameType | None = None
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.getsignal(signal.SIGINT)
            if self._handler is not None:  # as for handlers that are not Python's
                signal.signal(signal.SIGINT, self._note)

    def _note(self, _number: int, frame: FrameType | None) -> None:
        self._interrupted = frame

    def __exit__(self, *_error: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            if self._interrupted is not None and callable(self._handler):
                self._handler(signal.SIGINT, self._interrupted)


class _Order:
    """The lock that keeps what is published in order, a new one in each process."""

    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


_order = _Order()


class SessionKernel(IPythonKernel):
    """Says what becomes of a request, but does not repeat it, nor that work on it has begun."""

    def _publish_execute_input(self, code: str, parent: Any, execution_count: int) -> None:
        pass

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        if status != "busy":
            super()._publish_status(status, channel, parent)  # type: ignore[no-untyped-call]


class Publisher(IOPubThread):
    """Sends at once, from whichever thread publishes.

    The original hands every message to its thread, and waits for that at each flush, of which a run has six.
    That is a third of what a short run costs. ZeroMQ lets threads share a socket that they lock.
    """

    def _setup_xpub_listener(self) -> None:
        """In place of a listener for who subscribes: the thread must not touch the socket."""
        # Whoever prints faster than the runner reads waits for it. By default messages would be dropped.
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        with _Whole(), _order:
            self._really_send(*args, **kwargs)  # type: ignore[no-untyped-call]


class Console(OutStream):
    """Flushes at once, and with it what programs the kernel started have printed so far."""

    def flush(self) -> None:
        with _Whole(), _order:
            self._take_in()
            if self._buffers:
                self._flush()

    def _flush(self) -> None:
        with _order:
            super()._flush()  # type: ignore[no-untyped-call]

    def _watch_pipe_fd(self) -> None:
        assert self._fid is not None
        while self._should_watch:
            select.select([self._fid], [], [])
            with _order:
                self._take_in()

    def _take_in(self) -> None:
        if self._fid is None or not self._should_watch or os.getpid() != self._master_pid:
            return
        if select.select([self._fid], [], [], 0)[0]:
            data = os.read(self._fid, _PIPE)
            self.write(data.decode(errors="replace"))
            os.write(self._original_stdstream_copy, data)


_encode = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False).encode


def pack(content: Any) -> bytes:
    """As ``json_packer``, with an encoder that is made once."""
    try:
        return _encode(content).encode("utf8", errors="surrogateescape")
    except (TypeError, ValueError):
        return json_packer(content)


kernelapp.IOPubThread = Publisher  # type: ignore[attr-defined]
app = kernelapp.IPKernelApp.instance(kernel_class=SessionKernel, outstream_class="__main__.Console")
app.initialize(  # type: ignore[no-untyped-call]
    [
        *sys.argv[1:],
        "--log-level=50",
        "--HistoryManager.enabled=False",
        "--Completer.use_jedi=False",
        # A pause to let output go ahead, which it has by then.
        "--Kernel._execute_sleep=0",
    ]
)
app.session.pack = pack
# The level above is that of the handler; records would be made all the same.
app.log.setLevel(logging.CRITICAL)
# Programs may import it all the same.
del sys.modules["debugpy"]
# Advice about leaving an interactive terminal, given to whoever calls sys.exit().
warnings.filterwarnings("ignore", message="To exit: use", category=UserWarning)
app.start()  # type: ignore[no-untyped-call]
