"""The messages between a manager and its agents, as closed unions.

Two channels, both ZeroMQ with CURVE:

* **facts**: the agent's DEALER connects to the ROUTER of the process that holds the fleet lease. Heartbeats
  are fire and forget; every :class:`Fact` is numbered and sent again until a :class:`FactAck` names it, so a
  fact is delivered at least once and the receiver must be idempotent. Numbers may be skipped: what a newer
  fact about a kernel made pointless is no longer sent.
* **calls**: every gateway process connects a DEALER to the agent's ROUTER. One frame pair
  ``[call id (8 bytes), message]`` each way; calls about one kernel are handled in the order they came.
  An :class:`OpenStream` that was answered with :class:`StreamOpened` makes its call id the name of a stream,
  whose frames ``[call id, kind, payload]`` follow both ways; see ``wire.streams``.

Encoding is msgpack by msgspec, tagged by class name; decoding refuses unknown tags and wrong types.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.files import FileListing
from backendai.core.kernel import ImageSpec, KernelFacts, KernelSpec, KernelStat, ServicePort
from backendai.core.output import KernelOutput
from backendai.wire.decoding import decode
from backendai.wire.streams import StreamTarget

#: Raised on any incompatible change. An agent that speaks another one is refused with a clear reason.
LINK_VERSION = 1
#: A frame larger than this is refused unread.
MAX_MESSAGE_BYTES = 32 << 20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


# -- facts: agent to manager ---------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True):
    """First word after start or when asked. Tells everything, so that nothing else has to be remembered."""

    agent_id: str
    boot_id: str
    version: str
    link_version: int = LINK_VERSION
    #: Where gateways reach the agent's call socket, ``tcp://host:port``.
    address: str
    #: CURVE public key of the call socket, Z85 text; empty when CURVE is off.
    public_key: str = ""
    #: Where other agents deliver frames of sessions that are spread over several; empty if it takes no part.
    cluster_endpoint: str = ""
    architecture: str = "x86_64"
    region: str = "local"
    scaling_group: str = "default"
    engine: str = "process"
    slots: dict[str, str]
    images: tuple[ImageSpec, ...] = ()
    kernels: tuple[KernelFacts, ...] = ()
    isolation: dict[str, str] = {}


class NodeStat(msgspec.Struct, frozen=True, kw_only=True):
    cpu_util: float = 0.0
    mem_used: int = 0
    mem_total: int = 0


class Heartbeat(_Message, frozen=True, kw_only=True):
    """``kernels`` lists every live kernel that belongs to a session (not the warm pool), ``starting`` those
    of them that do not run yet; ``ended`` names some that have ended and whose output nobody has fetched.
    """

    agent_id: str
    boot_id: str
    seq: int
    kernels: dict[UUID, KernelStat] = {}
    starting: tuple[UUID, ...] = ()
    node: NodeStat = NodeStat()
    ended: tuple[UUID, ...] = ()


class KernelPulling(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    reason: str = ""


class KernelCreating(_Message, frozen=True, kw_only=True):
    kernel_id: UUID


class KernelStarted(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    facts: KernelFacts


class KernelFailed(_Message, frozen=True, kw_only=True):
    """The kernel never reached RUNNING. ``code`` is stable, ``detail`` is for the person (log tail, hint)."""

    kernel_id: UUID
    code: str
    detail: str = ""


class KernelTerminated(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    reason: str
    exit_code: int | None = None
    last_stat: KernelStat | None = None


KernelEvent = KernelPulling | KernelCreating | KernelStarted | KernelFailed | KernelTerminated


class Fact(_Message, frozen=True, kw_only=True):
    """``seq`` counts from 1 within one ``boot_id``."""

    agent_id: str
    boot_id: str
    seq: int
    event: KernelEvent


class Goodbye(_Message, frozen=True, kw_only=True):
    """A planned stop. Kernels stay with their runners unless ``reason`` is ``shutdown``."""

    agent_id: str
    boot_id: str
    reason: str


AgentMessage = Hello | Heartbeat | Fact | Goodbye


# -- facts: manager to agent ---------------------------------------------------------------------------------


class SayHello(_Message, frozen=True, kw_only=True):
    """The manager does not know this agent or boot: introduce yourself."""

    reason: str = "unknown"


class HelloAccepted(_Message, frozen=True, kw_only=True):
    boot_id: str


class HelloRefused(_Message, frozen=True, kw_only=True):
    reason: str


class FactAck(_Message, frozen=True, kw_only=True):
    boot_id: str
    seq: int


ManagerMessage = SayHello | HelloAccepted | HelloRefused | FactAck


# -- calls: manager to agent ---------------------------------------------------------------------------------


class CreateKernel(_Message, frozen=True, kw_only=True):
    """Answered with ``Done`` once accepted; the outcome follows as a fact. Repeating it is harmless."""

    spec: KernelSpec


class DestroyKernel(_Message, frozen=True, kw_only=True):
    """Answered with ``Destroyed`` once the end is under way; for unknown kernels too, which have ended."""

    kernel_id: UUID
    reason: str
    forced: bool = False


class RestartKernel(_Message, frozen=True, kw_only=True):
    """New processes on the same scratch directory; the outcome follows as a ``KernelStarted`` fact."""

    kernel_id: UUID


class RunCode(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    request: RunRequest


class InterruptKernel(_Message, frozen=True, kw_only=True):
    kernel_id: UUID


class CompleteCode(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    request: CompletionRequest


class ReadLogs(_Message, frozen=True, kw_only=True):
    """The last ``limit`` bytes of everything the kernel printed."""

    kernel_id: UUID
    limit: int = 10 << 20


class ReadOutput(_Message, frozen=True, kw_only=True):
    """All that a kernel has printed that has ended; ``no-such-kernel`` when there is nothing of it."""

    kernel_id: UUID


class ForgetOutput(_Message, frozen=True, kw_only=True):
    """It is kept elsewhere now. Answered with ``Done``; repeating it is harmless."""

    kernel_id: UUID


class ListFiles(_Message, frozen=True, kw_only=True):
    """``path`` is relative to the kernel's home directory, or absolute and below it."""

    kernel_id: UUID
    path: str = "."


class OpenStream(_Message, frozen=True, kw_only=True):
    """Answered with ``StreamOpened`` once the target is reached."""

    kernel_id: UUID
    target: StreamTarget


class StartService(_Message, frozen=True, kw_only=True):
    """Have the named service listen on ``port``, or on its first one. Repeating it is harmless."""

    kernel_id: UUID
    name: str
    port: int | None = None
    environ: dict[str, str] = {}
    #: Option to nothing, one value or several.
    arguments: dict[str, str | tuple[str, ...] | None] = {}


class StopService(_Message, frozen=True, kw_only=True):
    kernel_id: UUID
    name: str


class ListServices(_Message, frozen=True, kw_only=True):
    kernel_id: UUID


class Ping(_Message, frozen=True, kw_only=True):
    pass


AgentCall = (
    CreateKernel
    | DestroyKernel
    | RestartKernel
    | RunCode
    | InterruptKernel
    | CompleteCode
    | ReadLogs
    | ReadOutput
    | ForgetOutput
    | ListFiles
    | OpenStream
    | StartService
    | StopService
    | ListServices
    | Ping
)


class Done(_Message, frozen=True, kw_only=True):
    pass


class Destroyed(_Message, frozen=True, kw_only=True):
    last_stat: KernelStat | None = None


class RunAnswered(_Message, frozen=True, kw_only=True):
    reply: RunReply


class Completions(_Message, frozen=True, kw_only=True):
    matches: tuple[str, ...]


class Logs(_Message, frozen=True, kw_only=True):
    text: str
    truncated: bool = False


class Output(_Message, frozen=True, kw_only=True):
    output: KernelOutput


class Files(_Message, frozen=True, kw_only=True):
    listing: FileListing


class StreamOpened(_Message, frozen=True, kw_only=True):
    pass


class ServiceStarted(_Message, frozen=True, kw_only=True):
    """``port`` listens inside the kernel."""

    port: int


class Services(_Message, frozen=True, kw_only=True):
    ports: tuple[ServicePort, ...]


class Refused(_Message, frozen=True, kw_only=True):
    """``code`` is ``no-such-kernel``, ``no-such-image``, ``no-capacity``, ``busy``, ``kernel-exited`` or
    ``failed``, or what the runner refused a run with: ``no-such-run``, ``not-waiting-input``,
    ``bad-request``, ``unsupported``. A stream can also be refused with the codes of ``wire.streams.Closed``
    and with ``too-many-streams``, a service with ``no-such-service`` or ``timeout``.
    """

    code: str
    msg: str = ""


AgentAnswer = (
    Done
    | Destroyed
    | RunAnswered
    | Completions
    | Logs
    | Output
    | Files
    | StreamOpened
    | ServiceStarted
    | Services
    | Refused
)

_encoder = msgspec.msgpack.Encoder()
_agent_messages: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_manager_messages: msgspec.msgpack.Decoder[ManagerMessage] = msgspec.msgpack.Decoder(ManagerMessage)
_calls: msgspec.msgpack.Decoder[AgentCall] = msgspec.msgpack.Decoder(AgentCall)
_answers: msgspec.msgpack.Decoder[AgentAnswer] = msgspec.msgpack.Decoder(AgentAnswer)


class MalformedMessage(Exception):
    """A peer sent bytes that are not a message of the expected union."""


def encode(message: AgentMessage | ManagerMessage | AgentCall | AgentAnswer) -> bytes:
    return _encoder.encode(message)


def decode_agent_message(data: bytes) -> AgentMessage:
    return decode(_agent_messages, data, MalformedMessage)


def decode_manager_message(data: bytes) -> ManagerMessage:
    return decode(_manager_messages, data, MalformedMessage)


def decode_call(data: bytes) -> AgentCall:
    return decode(_calls, data, MalformedMessage)


def decode_answer(data: bytes) -> AgentAnswer:
    return decode(_answers, data, MalformedMessage)
