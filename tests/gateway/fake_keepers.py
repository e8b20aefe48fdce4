"""Stand-ins for the services that keep templates and dotfiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from backendai.core.account import Principal
from backendai.core.dotfiles import Holder, HolderKind
from backendai.core.errors import ObjectNotFound
from backendai.core.kernel import Dotfile
from backendai.core.template import Template, TemplateDraft, TemplateKind
from backendai.gateway.template_document import draft_of

DOCUMENT = """
api_version: 6
kind: taskTemplate
metadata: {name: mine, tag: blue}
spec:
  kernel:
    image: python:3.11
    environ: {COLOUR: blue}
    run: {bootstrap: make ready, startup_command: null}
  mounts: {data: /data}
  resources: {cpu: 2, mem: 1g}
  scaling_group: large
"""
CLUSTER = """
api_version: 6
kind: clusterTemplate
mode: multi-node
metadata: {name: both}
spec:
  environ: {SHAPE: round}
  nodes:
    - {role: main, session_template: 77777777-2222-3333-4444-555555555555}
    - {role: sub, session_template: 77777777222233334444555555555556, replicas: 2}
"""
TEMPLATE_ID = UUID("77777777-2222-3333-4444-555555555555")
PROJECT_ID = UUID("88888888-2222-3333-4444-555555555555")


@dataclass
class FakeTemplates:
    """One template, of the kind that is asked for."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    document: dict[str, Any] = field(
        default_factory=lambda: draft_of(DOCUMENT, TemplateKind.SESSION).document
    )
    cluster: dict[str, Any] = field(default_factory=lambda: draft_of(CLUSTER, TemplateKind.CLUSTER).document)

    async def create(
        self,
        requester: Principal,
        owner: Principal,
        kind: TemplateKind,
        drafts: Sequence[TemplateDraft],
        *,
        domain: str,
        project: str,
    ) -> list[UUID]:
        self.calls.append(("create", owner, kind, tuple(drafts), domain, project))
        return [TEMPLATE_ID for _ in drafts]

    async def visible(
        self, owner: Principal, kind: TemplateKind, *, everybodys: bool, project_id: UUID | None
    ) -> list[Template]:
        self.calls.append(("visible", owner, kind, everybodys, project_id))
        return [await self.get(owner, kind, TEMPLATE_ID)]

    async def get(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> Template:
        if not template_id.int:
            raise ObjectNotFound("task template")
        return Template(
            id=template_id,
            kind=kind,
            name="mine",
            document=self.document if kind is TemplateKind.SESSION else self.cluster,
            user_id=owner.user_id,
            user_email=owner.email,
            domain_name="default",
            project_id=PROJECT_ID,
            project_name="default",
            created_at=datetime(2026, 11, 1, tzinfo=UTC),
        )

    async def get_all(
        self, owner: Principal, kind: TemplateKind, template_ids: Sequence[UUID]
    ) -> dict[UUID, Template]:
        return {each: await self.get(owner, kind, each) for each in template_ids}

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
    ) -> None:
        self.calls.append(("replace", owner, kind, template_id, draft, domain, project))

    async def remove(self, owner: Principal, kind: TemplateKind, template_id: UUID) -> None:
        self.calls.append(("remove", owner, kind, template_id))


@dataclass
class FakeDotfiles:
    """One file, whosever they are."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def project(
        self, requester: Principal, project: str, domain: str | None, *, to_change: bool
    ) -> Holder:
        return Holder(HolderKind.PROJECT, PROJECT_ID)

    def domain(self, requester: Principal, domain: str) -> Holder:
        return Holder(HolderKind.DOMAIN, domain)

    async def files(self, holder: Holder) -> list[Dotfile]:
        self.calls.append(("files", holder))
        return [Dotfile(path=".bashrc", permission="644", data="x")]

    async def file(self, holder: Holder, path: str) -> Dotfile:
        return Dotfile(path=path, permission="644", data="x")

    async def add(self, holder: Holder, file: Dotfile) -> None:
        self.calls.append(("add", holder, file))

    async def replace(self, holder: Holder, file: Dotfile) -> None:
        self.calls.append(("replace", holder, file))

    async def remove(self, holder: Holder, path: str) -> None:
        self.calls.append(("remove", holder, path))

    async def bootstrap_script(self, owner: Principal) -> str:
        return "true"

    async def set_bootstrap_script(self, owner: Principal, script: str) -> None:
        self.calls.append(("script", owner, script))


@dataclass
class FakeKeepers:
    templates: FakeTemplates = field(default_factory=FakeTemplates)
    dotfiles: FakeDotfiles = field(default_factory=FakeDotfiles)
