"""The manager services that handlers may ask, as narrow interfaces.

Handlers see these and nothing else of the manager; the composition root passes the manager's own objects,
which fit by structure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from backendai.core.account import Credential, Principal, RateState
from backendai.core.chronicle import Dependency, Passage
from backendai.core.dotfiles import Holder
from backendai.core.execution import CompletionRequest, RunReply, RunRequest
from backendai.core.files import FileListing
from backendai.core.kernel import Dotfile
from backendai.core.session import Idempotency, SessionCreated, SessionRecord, SessionWish
from backendai.core.task import TaskState
from backendai.core.template import Template, TemplateDraft, TemplateKind
from backendai.manager.directory import DirectoryService
from backendai.manager.events import EventFeed, EventFilter
from backendai.manager.link import AgentStream
from backendai.manager.streams import RunningApp
from backendai.wire.streams import StreamTarget


class Accounts(Protocol):
    async def credential(self, access_key: str) -> Credential | None:
        """None for a key that is unknown or inactive. Cached."""

    async def acting_as(self, principal: Principal, owner_access_key: str | None) -> Principal:
        """Raises Forbidden or InvalidParameters by contract 01 §4."""

    async def groups_of(self, principal: Principal) -> Sequence[tuple[UUID, str]]: ...

    def count_query(self, access_key: str) -> None:
        """Note one more verified request of a key; written down later, in batches."""


class Sessions(Protocol):
    async def create(
        self,
        requester: Principal,
        owner: Principal,
        wish: SessionWish,
        idempotency: Idempotency | None = None,
    ) -> SessionCreated:
        """Cancelling the call while it waits for RUNNING leaves the session queued."""

    async def info(self, owner: Principal, ref: str) -> SessionRecord: ...

    async def match(self, owner: Principal, prefix: str) -> Sequence[Mapping[str, Any]]: ...

    async def destroy(
        self, requester: Principal, owner: Principal, ref: str, *, forced: bool, recursive: bool
    ) -> Mapping[str, Any]: ...

    async def restart(self, owner: Principal, ref: str) -> None: ...

    async def rename(self, owner: Principal, ref: str, name: str) -> None: ...


class Execution(Protocol):
    async def run(self, owner: Principal, ref: str, request: RunRequest) -> RunReply: ...

    async def interrupt(self, owner: Principal, ref: str) -> None: ...

    async def complete(self, owner: Principal, ref: str, request: CompletionRequest) -> tuple[str, ...]: ...

    async def logs(self, owner: Principal, ref: str, kernel_id: UUID | None = None) -> str: ...

    async def replay(self, owner: Principal, ref: str, run_id: str, after: int, wait: float) -> RunReply:
        """Any part of a run's output, again."""


class Streams(Protocol):
    """See :class:`backendai.manager.streams.StreamService`."""

    def open_stream(
        self, owner: Principal, ref: str, target: StreamTarget
    ) -> AbstractAsyncContextManager[AgentStream]: ...

    async def list_files(self, owner: Principal, ref: str, path: str) -> FileListing: ...

    async def start_app(
        self,
        owner: Principal,
        ref: str,
        name: str,
        *,
        port: int | None = None,
        environ: Mapping[str, str],
        arguments: Mapping[str, str | tuple[str, ...] | None],
    ) -> RunningApp: ...

    def connect(self, app: RunningApp) -> AbstractAsyncContextManager[AgentStream]: ...


class Events(Protocol):
    def subscribe(
        self,
        principal: Principal,
        wanted: EventFilter,
        *,
        after: int | None = None,
        reader: str | None = None,
    ) -> AbstractAsyncContextManager[EventFeed]: ...

    def close(self) -> None:
        """End every subscription: the server is about to stop."""


class Tasks(Protocol):
    def follow(
        self, principal: Principal, task_id: UUID
    ) -> AbstractAsyncContextManager[AsyncIterator[TaskState]]: ...

    def close(self) -> None:
        """End all following: the server is about to stop."""


class Explain(Protocol):
    async def explain(self, requester: Principal, owner: Principal, ref: str) -> Mapping[str, Any]:
        """See :meth:`backendai.manager.explain.ExplainService.explain`."""


class Chronicle(Protocol):
    """See :class:`backendai.manager.chronicle.ChronicleService`."""

    async def history(self, owner: Principal, ref: str) -> Sequence[Passage]: ...

    async def dependencies(self, owner: Principal, ref: str) -> Dependency: ...

    async def statuses(self, owner: Principal, session_ids: Sequence[UUID]) -> Mapping[UUID, str]: ...


class Templates(Protocol):
    """See :class:`backendai.manager.templates.TemplateService`."""

    async def create(
        self,
        requester: Principal,
        owner: Principal,
        kind: TemplateKind,
        drafts: Sequence[TemplateDraft],
        *,
        domain: str,
        project: str,
    ) -> Sequence[UUID]: ...

    async def visible(
        self, owner: Principal, kind: TemplateKind, *, everybodys: bool, project_id: UUID | None
    ) -> Sequence[Template]: ...

    async def get(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> Template: ...

    async def get_all(
        self, owner: Principal, kind: TemplateKind, template_ids: Sequence[UUID]
    ) -> Mapping[UUID, Template]: ...

    async def replace(
        self,
        requester: Principal,
        owner: Principal,
        kind: TemplateKind,
        template_id: UUID,
        draft: TemplateDraft,
        *,
        domain: str | None,
        project: str | None,
    ) -> None: ...

    async def remove(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> None: ...


class Dotfiles(Protocol):
    """See :class:`backendai.manager.dotfiles.DotfileService`."""

    async def project(
        self, requester: Principal, project: str, domain: str | None, *, to_change: bool
    ) -> Holder: ...

    def domain(self, requester: Principal, domain: str) -> Holder: ...

    async def files(self, holder: Holder) -> Sequence[Dotfile]: ...

    async def file(self, holder: Holder, path: str) -> Dotfile: ...

    async def add(self, holder: Holder, file: Dotfile) -> None: ...

    async def replace(self, holder: Holder, file: Dotfile) -> None: ...

    async def remove(self, holder: Holder, path: str) -> None: ...

    async def bootstrap_script(self, owner: Principal) -> str: ...

    async def set_bootstrap_script(self, owner: Principal, script: str) -> None: ...


class ManagerStatus(Protocol):
    async def status(self) -> Mapping[str, Any]: ...

    async def set_status(self, principal: Principal, status: str, force_kill: bool) -> None: ...

    async def announcement(self) -> Mapping[str, Any]: ...

    async def set_announcement(self, principal: Principal, enabled: bool, message: str) -> None: ...

    def gate(self, *, write: bool) -> None:
        """Raises ServerFrozen or ServiceUnavailable if the installation does not admit this. Cached."""


class RateLimits(Protocol):
    async def check(self, access_key: str, limit: int, *, claim: str | None = None) -> RateState:
        """Count a request and remember ``claim``. While Redis is down everything is allowed and new."""


class Health(Protocol):
    async def readiness(self) -> Mapping[str, str]:
        """Component to ``ok`` or to what is wrong with it."""


class Admission(Protocol):
    async def admit(self, token: str, agent_id: str, public_key: str) -> Mapping[str, str]:
        """What the agent must know of us. Raises AuthFailed, or BadRequest where none is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    accounts: Accounts
    sessions: Sessions
    execution: Execution
    streams: Streams
    tasks: Tasks
    explain: Explain
    chronicle: Chronicle
    templates: Templates
    dotfiles: Dotfiles
    events: Events
    status: ManagerStatus
    rate: RateLimits
    health: Health
    #: What the GraphQL schema looks things up in.
    directory: DirectoryService
    #: How agents on other hosts come to be trusted; None where they cannot.
    admission: Admission | None = None
