"""Shapes of requests and replies as they go over the wire, for the OpenAPI document.

The handlers do not use them: reading is more lenient than any schema (``Fields``), and replies are built from
records. ``tests/gateway/test_fuzz.py`` holds the replies against these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
from msgspec import Meta

from backendai.core.execution import RunMode, RunStatus
from backendai.core.session import ClusterMode, SessionType

Name = Annotated[str, Meta(pattern=r"^(?=.{4,64}$)[A-Za-z0-9_][A-Za-z0-9_.-]*[A-Za-z0-9_]$")]
Text = Annotated[str, Meta(min_length=1, max_length=64)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Code = Annotated[str, Meta(max_length=1 << 20)]


class Problem(msgspec.Struct):
    """Why a request was refused."""

    #: Ends in the code of the refusal.
    type: Annotated[str, Meta(pattern="^https://api\\.backend\\.ai/probs/[a-z-]+$")]
    title: str
    msg: str | msgspec.UnsetType = msgspec.UNSET
    data: Any = msgspec.UNSET
    agent_details: Any = msgspec.field(name="agent-details", default=msgspec.UNSET)


# -- the installation


class Nothing(TypedDict):
    """An empty object."""


class Succeeded(TypedDict):
    success: Literal[True]


class Hello(TypedDict):
    """The newest API version spoken, and the release of the original that behaves like it."""

    version: Annotated[str, Meta(pattern=r"^v[1-9]\.\d{8}$")]
    manager: str


class Alive(TypedDict):
    status: Literal["ok"]


class Readiness(TypedDict):
    """Component to ``ok`` or to what is wrong with it."""

    status: Literal["ok", "degraded", "unready"]
    components: dict[str, str]


class ManagerState(TypedDict):
    nodes: list[dict[str, Any]]
    status: str
    active_sessions: int


class StatusChange(TypedDict):
    status: Annotated[str, Meta(description="`running` or `frozen`, in any case", min_length=1)]
    force_kill: NotRequired[Annotated[bool, Meta(description="End all sessions when freezing")]]


class Announcement(TypedDict):
    enabled: bool
    message: str


class AnnouncementChange(TypedDict, total=False):
    enabled: bool
    message: Annotated[str, Meta(max_length=16 << 10)]


class EchoWish(TypedDict):
    echo: Annotated[str, Meta(min_length=1, max_length=64 << 10)]


class Echo(TypedDict):
    authorized: Literal["yes"]
    echo: str


class RoleWish(TypedDict, total=False):
    group: Annotated[UUID, Meta(description="A project of the requester")]


class Role(TypedDict):
    global_role: Literal["superadmin", "user"]
    domain_role: Literal["admin", "user"]
    group_role: str | None


class Enrollment(TypedDict):
    token: Annotated[str, Meta(min_length=1, max_length=200)]
    agent_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    public_key: Annotated[str, Meta(description="Z85", min_length=40, max_length=40)]


class GraphQLRequest(TypedDict):
    query: Annotated[str, Meta(max_length=32 << 10)]
    variables: NotRequired[dict[str, Any] | None]
    operation_name: NotRequired[str | None]


class GraphQLReply(TypedDict):
    data: NotRequired[dict[str, Any] | None]
    errors: NotRequired[list[dict[str, Any]]]


# -- sessions


class SessionConfig(TypedDict, total=False):
    resources: Annotated[dict[str, Any], Meta(description="Slot to amount, such as `cpu: 1`, `mem: 1g`")]
    resource_opts: dict[str, Any]
    environ: dict[str, str]
    mounts: list[str]
    mount_map: dict[str, str]
    scaling_group: Annotated[str, Meta(max_length=64)]
    preopen_ports: list[Annotated[int, Meta(ge=1024, le=65535)]]
    agent_list: list[str]


Image = Annotated[str, Meta(min_length=1, max_length=512)]


class SessionOptions(TypedDict, total=False):
    architecture: Annotated[str, Meta(min_length=1, max_length=16)]
    type: SessionType
    group: Text
    domain: Text
    cluster_size: Annotated[int, Meta(ge=1, le=1024)]
    cluster_mode: ClusterMode
    tag: Annotated[str, Meta(max_length=64)]
    enqueueOnly: Annotated[bool, Meta(description="Do not wait for it to run")]
    maxWaitSeconds: Annotated[int, Meta(ge=0, le=2**31, description="0 waits without limit")]
    reuseIfExists: bool
    starts_at: Annotated[str, Meta(description="ISO 8601, or a duration such as `1h30m`")]
    startupCommand: str
    bootstrap_script: str
    dependencies: Annotated[list[str], Meta(description="Sessions that have to succeed first")]
    callback_url: Annotated[str, Meta(max_length=2048)]
    priority: Annotated[int, Meta(ge=-1000, le=1000)]
    batch_timeout: Annotated[str, Meta(description="A duration such as `90` or `2h`")]
    config: SessionConfig


class CreateSession(SessionOptions):
    """Most names may also be written in camel case, as older clients do."""

    name: Name
    image: Image


class ServicePort(TypedDict):
    name: str
    protocol: str
    ports: list[int]
    url_template: NotRequired[str]
    allowed_arguments: NotRequired[Any]
    allowed_envs: NotRequired[Any]


class SessionCreated(TypedDict):
    sessionId: UUID
    sessionName: str
    status: str
    servicePorts: list[ServicePort]
    created: Annotated[bool, Meta(description="False when a live session of that name is used again")]


class MatchWish(TypedDict):
    id: Annotated[str, Meta(description="Beginning of a name or id", min_length=1, max_length=64)]


class Match(TypedDict):
    id: UUID
    name: str
    status: str


class Matches(TypedDict):
    matches: list[Match]


class SessionInfo(TypedDict):
    """Some values are Python literals as text, ages are milliseconds: clients of all ages read it."""

    sessionId: UUID
    sessionName: str
    domainName: str
    groupId: UUID
    userId: UUID
    lang: str
    image: str
    architecture: str
    registry: str
    tag: str | None
    containerId: str
    occupiedSlots: str
    occupiedShares: str
    environ: str
    status: str
    statusInfo: str
    statusData: dict[str, Any] | None
    age: int
    creationTime: str
    terminationTime: str | None
    numQueriesExecuted: int
    lastStat: dict[str, Any] | None
    isolation: Any
    memoryLimit: Annotated[int, Meta(description="KiB")]
    memoryUsed: Annotated[int, Meta(description="KiB")]
    cpuCreditUsed: Annotated[float, Meta(description="Milliseconds of processor time")]


class DestroyWish(TypedDict, total=False):
    forced: bool
    recursive: Annotated[bool, Meta(description="Also the sessions that depend on it")]


class Destroyed(TypedDict):
    stats: dict[str, Any]


class RenameWish(TypedDict):
    name: Name


# -- runs


class RunWish(TypedDict):
    runId: Annotated[str | None, Meta(description="Chosen by the first request, null lets the server choose")]
    mode: RunMode
    code: NotRequired[Code]
    options: NotRequired[dict[str, Any] | None]


class RunResult(TypedDict):
    """Requests of API v1 get one text per stream instead of ``console``."""

    runId: str
    status: RunStatus
    exitCode: int | None
    options: dict[str, Any] | None
    files: list[Any]
    console: NotRequired[Annotated[list[list[Any]], Meta(description="Pairs of kind and data, in order")]]
    truncated: NotRequired[bool]


class RunReply(TypedDict):
    result: RunResult


class ReplayWish(TypedDict, total=False):
    after: Annotated[int, Meta(ge=0, le=2**31, description="Index of the first item wanted")]
    wait: Annotated[int, Meta(ge=0, le=30, description="Seconds to wait for something new")]


class RunItem(TypedDict):
    index: int
    type: str
    data: str
    mime: NotRequired[str]


class Replay(TypedDict):
    runId: str
    status: str
    exitCode: int | None
    options: dict[str, Any] | None
    truncated: bool
    items: list[RunItem]
    first: Annotated[int, Meta(description="Index of the first item that still exists")]
    next: Annotated[int, Meta(description="The `after` of the next read")]


class ReplayReply(TypedDict):
    result: Replay


class CompletionOptions(TypedDict, total=False):
    row: Annotated[int, Meta(ge=0, le=2**31)]
    col: Annotated[int, Meta(ge=0, le=2**31)]
    line: Code
    post: Code


class CompletionWish(TypedDict, total=False):
    code: Code
    options: CompletionOptions


class Completions(TypedDict):
    status: Literal["finished"]
    completions: list[str]


class CompletionReply(TypedDict):
    result: Completions


class LogsWish(TypedDict, total=False):
    kernel_id: Annotated[UUID, Meta(description="A kernel of a cluster, the main one if left out")]


class Logs(TypedDict):
    logs: str


class LogsReply(TypedDict):
    result: Logs


class TaskLogWish(TypedDict):
    taskId: Annotated[str, Meta(description="Id or name of a session", min_length=1, max_length=64)]


# -- files, streams


class FilesWish(TypedDict):
    files: Annotated[list[Path], Meta(min_length=1, max_length=20)]


class FileWish(TypedDict):
    file: Path


class ListWish(TypedDict, total=False):
    path: Path


class Listing(TypedDict):
    files: Annotated[str, Meta(description="JSON in a string: filename, mode, size and times of each")]
    errors: str
    abspath: str


class EventsWish(TypedDict, total=False):
    sessionId: UUID
    sessionName: Annotated[str, Meta(description="`*` for all", min_length=1, max_length=64)]
    ownerAccessKey: Text
    group: Text
    scope: Annotated[str, Meta(description="`session`, `kernel` or `*`", min_length=1, max_length=64)]
    lastEventId: Annotated[str, Meta(description="As the header Last-Event-ID")]


class TaskWish(TypedDict):
    task_id: UUID


class TerminalWish(TypedDict, total=False):
    terminal: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.\-]{1,64}$", description="`main` if left out")]
    rows: Annotated[int, Meta(ge=1, le=1000)]
    cols: Annotated[int, Meta(ge=1, le=1000)]


class TunnelWish(TypedDict):
    app: Text
    port: NotRequired[Annotated[int, Meta(ge=1024, le=65535)]]
    envs: NotRequired[Annotated[str, Meta(description="A JSON object of strings")]]
    arguments: NotRequired[
        Annotated[str, Meta(description="A JSON object: option to nothing, text or texts")]
    ]
