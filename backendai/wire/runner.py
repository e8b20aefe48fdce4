"""The messages between an agent and the runner of one kernel, over the runner's unix socket.

A frame is a 4-byte big-endian length and a msgpack array ``[request id, message]``. Ids are chosen by the
agent and come back with the answer, so any number of requests may be under way on one connection; the runner
*begins* them in the order they were sent. A newer connection takes over from an older one: the old one is
closed.

A connection whose first request is :class:`OpenStream` is another matter: it displaces nobody and carries one
stream. The request is answered as any other, with ``StreamOpened`` or ``Refusal``; then both ends send
frames of the same form whose body is a frame of ``wire.streams`` without a request id.

The runner's answers are trusted (it is our own process), the socket lies in a directory only we may enter.
"""

from __future__ import annotations

import struct
from uuid import UUID

import msgspec

from backendai.core.cluster import NetworkPaths
from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.files import FileListing
from backendai.core.kernel import ImageSpec, KernelPhase, KernelSpec, KernelStat, ServicePort
from backendai.wire.decoding import decode
from backendai.wire.streams import CHUNK_BYTES, StreamFrame, StreamTarget

#: Largest frame either side accepts; a reply's items are bounded to far less.
MAX_FRAME_BYTES = 16 << 20
#: Largest frame of a stream.
MAX_STREAM_FRAME_BYTES = CHUNK_BYTES + 4096
_LENGTH = struct.Struct("!I")

#: Files of a kernel's directory.
SPEC_FILE = "spec"
STATE_FILE = "state"
SOCKET_FILE = "runner.sock"
LOG_FILE = "runner.log"
#: What a kernel that has ended has printed: a ``core.output.KernelOutput``.
OUTPUT_FILE = "output"
#: Where a runner collects it while the kernel lives.
JOURNAL = "journal"


class RunnerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner must know to start its kernel and keep it. Times in seconds.

    With ``warm`` the kernel belongs to no session yet; :class:`Assign` gives it one.
    """

    kernel: KernelSpec
    image: ImageSpec
    warm: bool = False
    orphan_timeout: float = 600.0
    #: From the start of the sandbox to the kernel's first answer.
    start_timeout: float = 60.0
    #: Refuse to start when a mechanism of the sandbox or a limit cannot be enforced.
    require_full_isolation: bool = False
    #: The network of the session, which the runner opens for itself and keeps.
    network: NetworkPaths | None = None


class RunnerExit(msgspec.Struct, frozen=True, kw_only=True):
    """Why the kernel ended.

    ``reason`` is one of ``self-terminated`` (left by itself with ``exit_code``), ``killed`` (by a signal it
    brought upon itself, e.g. a segmentation fault; ``exit_code`` is 128 + signal), ``out-of-memory``,
    ``disk-limit``, ``start-failed``, ``start-timeout``, ``isolation-missing``, ``orphaned``, or what
    :class:`Shutdown` said. ``detail`` is for a person.
    """

    reason: str
    exit_code: int | None = None
    detail: str = ""
    stat: KernelStat | None = None


class RunnerState(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as it describes itself, and as it last wrote itself down in the state file."""

    kernel_id: UUID
    session_id: UUID
    image: str
    phase: KernelPhase
    runner_pid: int
    #: Boot id of the machine and start time of the process, so that a reused pid is not mistaken for the
    #: runner.
    runner_identity: str
    warm: bool = False
    busy: bool = False
    isolation: dict[str, str] = {}
    #: Milliseconds per phase, see ``KernelFacts.timings``.
    timings: dict[str, float] = {}
    exit: RunnerExit | None = None
    #: The kernel spec as last assigned, for an agent that comes back knowing nothing.
    kernel: KernelSpec | None = None
    services: tuple[ServicePort, ...] = ()
    #: The runner's own handles of the session's network.
    network: NetworkPaths | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


# -- agent to runner -----------------------------------------------------------------------------------------


class Describe(_Message, frozen=True, kw_only=True):
    pass


class AwaitReady(_Message, frozen=True, kw_only=True):
    """Answered with ``State`` once the kernel is RUNNING or EXITED."""


class AwaitExit(_Message, frozen=True, kw_only=True):
    """Answered with ``Exited`` once the kernel has ended for good."""


class Run(_Message, frozen=True, kw_only=True):
    request: RunRequest


class Interrupt(_Message, frozen=True, kw_only=True):
    pass


class Complete(_Message, frozen=True, kw_only=True):
    request: CompletionRequest


class ReadLog(_Message, frozen=True, kw_only=True):
    #: Bytes from the end.
    limit: int


class Measure(_Message, frozen=True, kw_only=True):
    pass


class Assign(_Message, frozen=True, kw_only=True):
    """Give a warm kernel to a session: ids, environment, limits. Answered with ``State``."""

    kernel: KernelSpec


class Restart(_Message, frozen=True, kw_only=True):
    """Answered with ``State`` once the new kernel is RUNNING (or EXITED: it could not be started)."""


class Shutdown(_Message, frozen=True, kw_only=True):
    """End the kernel, remove the scratch, answer ``Exited``, end the runner. ``grace`` seconds for the
    kernel. With ``keep_output`` what it printed stays, in :data:`OUTPUT_FILE`.
    """

    reason: str
    grace: float = 0.0
    keep_output: bool = False


class ListFiles(_Message, frozen=True, kw_only=True):
    path: str


class OpenStream(_Message, frozen=True, kw_only=True):
    """The first request of a connection of its own."""

    target: StreamTarget


class StartService(_Message, frozen=True, kw_only=True):
    """Answered with ``ServiceStarted`` once the port takes connections."""

    name: str
    port: int | None = None
    environ: dict[str, str] = {}
    arguments: dict[str, str | tuple[str, ...] | None] = {}


class StopService(_Message, frozen=True, kw_only=True):
    name: str


class ListServices(_Message, frozen=True, kw_only=True):
    pass


RunnerRequest = (
    Describe
    | AwaitReady
    | AwaitExit
    | Run
    | Interrupt
    | Complete
    | ReadLog
    | Measure
    | Assign
    | Restart
    | Shutdown
    | ListFiles
    | OpenStream
    | StartService
    | StopService
    | ListServices
)


# -- runner to agent -----------------------------------------------------------------------------------------


class State(_Message, frozen=True, kw_only=True):
    state: RunnerState


class Exited(_Message, frozen=True, kw_only=True):
    exit: RunnerExit


class RunAnswer(_Message, frozen=True, kw_only=True):
    reply: RunReply


class Completed(_Message, frozen=True, kw_only=True):
    matches: tuple[str, ...]


class Log(_Message, frozen=True, kw_only=True):
    text: str
    truncated: bool


class Measured(_Message, frozen=True, kw_only=True):
    stat: KernelStat


class Accepted(_Message, frozen=True, kw_only=True):
    pass


class Files(_Message, frozen=True, kw_only=True):
    listing: FileListing


class StreamOpened(_Message, frozen=True, kw_only=True):
    pass


class ServiceStarted(_Message, frozen=True, kw_only=True):
    port: int


class Services(_Message, frozen=True, kw_only=True):
    ports: tuple[ServicePort, ...]


class Refusal(_Message, frozen=True, kw_only=True):
    """``code``: ``kernel-exited``, ``not-ready``, ``no-such-run``, ``not-waiting-input``, ``unsupported``,
    ``bad-request``, ``busy``, ``not-warm``, ``assign-failed``, ``too-many-runs``; for streams also the codes
    of ``wire.streams.Closed`` and ``too-many-streams``, for services ``no-such-service`` and ``timeout``."""

    code: str
    msg: str = ""


RunnerAnswer = (
    State
    | Exited
    | RunAnswer
    | Completed
    | Log
    | Measured
    | Accepted
    | Files
    | StreamOpened
    | ServiceStarted
    | Services
    | Refusal
)

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(tuple[int, RunnerRequest])
_answers = msgspec.msgpack.Decoder(tuple[int, RunnerAnswer])
_stream_frames: msgspec.msgpack.Decoder[StreamFrame] = msgspec.msgpack.Decoder(StreamFrame)


class BrokenFrame(Exception):
    """The peer sent something that is not a frame of this protocol; the connection is of no further use."""


def encode_frame(request_id: int, message: RunnerRequest | RunnerAnswer) -> bytes:
    body = _encoder.encode((request_id, message))
    return _LENGTH.pack(len(body)) + body


def encode_stream_frame(frame: StreamFrame) -> bytes:
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Collects received bytes and cuts them into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | bytearray) -> None:
        self._data += data

    def next_request(self) -> tuple[int, RunnerRequest] | None:
        """The next whole request, ``None`` when more bytes are needed. Raises :class:`BrokenFrame`."""
        body = self._cut()
        return None if body is None else decode(_requests, body, BrokenFrame)

    def next_answer(self) -> tuple[int, RunnerAnswer] | None:
        """The next whole answer, ``None`` when more bytes are needed. Raises :class:`BrokenFrame`."""
        body = self._cut()
        return None if body is None else decode(_answers, body, BrokenFrame)

    def next_stream_frame(self) -> StreamFrame | None:
        """As the others, once the connection carries a stream."""
        body = self._cut(MAX_STREAM_FRAME_BYTES)
        return None if body is None else decode(_stream_frames, body, BrokenFrame)

    def _cut(self, limit: int = MAX_FRAME_BYTES) -> bytes | None:
        if len(self._data) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > limit:
            raise BrokenFrame(f"frame of {length} bytes")
        end = _LENGTH.size + length
        if len(self._data) < end:
            return None
        body = bytes(self._data[_LENGTH.size : end])
        del self._data[:end]
        return body
