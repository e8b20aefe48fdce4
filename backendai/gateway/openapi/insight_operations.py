"""Looking into the life of a session, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NotRequired, TypedDict
from uuid import UUID

from msgspec import Meta

from backendai.core.errors import NotImplementedByServer
from backendai.gateway.openapi.operation import Operation, about_session

Slots = Annotated[dict[str, str], Meta(description="Slot to amount, memory in bytes")]


class Passage(TypedDict):
    status: str
    at: datetime
    reason: str | None


class BlockingRule(TypedDict):
    rule: str
    why: str


class NearestFit(TypedDict):
    agent: Annotated[str | None, Meta(description="Named to superadmins only")]
    missing: Annotated[dict[str, str], Meta(description="What would have to come free there")]
    tooSmall: Annotated[bool, Meta(description="It would not fit though nothing else ran there")]


class Pending(TypedDict):
    blockedBy: Annotated[list[BlockingRule], Meta(description="Empty when it is about to be started")]
    givesUpAt: datetime | None
    position: NotRequired[Annotated[int, Meta(description="Place in the queue of its scaling group")]]
    queueLength: NotRequired[int]
    needs: NotRequired[Slots]
    waitsFor: NotRequired[Annotated[list[str], Meta(description="Sessions that have to succeed first")]]
    startsAt: NotRequired[datetime | None]
    suitableAgents: NotRequired[int]
    nearestFit: NotRequired[NearestFit | None]
    unsuitable: NotRequired[list[str]]


class KernelEnding(TypedDict):
    kernelId: UUID
    host: str
    status: str
    reason: str | None
    exitCode: int | None


class Ending(TypedDict):
    at: datetime | None
    reason: str | None
    why: str | None
    result: str
    exitCode: int | None
    error: dict[str, Any] | None
    dependencies: list[str] | None
    kernels: list[KernelEnding]


class Stop(TypedDict):
    rule: str
    at: datetime
    why: str


class UntoldCallback(TypedDict):
    event: str
    attempts: int
    lastError: str | None
    nextAttempt: Annotated[datetime | None, Meta(description="Null once it is given up")]


class Explanation(TypedDict):
    sessionId: UUID
    sessionName: str
    status: str
    since: datetime
    history: list[Passage]
    summary: Annotated[str, Meta(description="One sentence for the person")]
    pending: NotRequired[Pending]
    ending: NotRequired[Ending]
    stops: NotRequired[Annotated[list[Stop], Meta(description="Rules that will end it, the soonest first")]]
    deadline: NotRequired[datetime | None]
    callbacks: NotRequired[Annotated[list[UntoldCallback], Meta(description="Not delivered, or not yet")]]


class StatusHistory(TypedDict):
    result: Annotated[dict[str, datetime], Meta(description="Status in small letters to when it last began")]
    history: list[Passage]


class DependencyNode(TypedDict):
    session_id: UUID
    session_name: str
    status: Annotated[str, Meta(description="`KernelStatus.` and the status")]
    status_changed: Annotated[str, Meta(description="Date and time in UTC, without zone")]
    depends_on: Annotated[list[dict[str, Any]], Meta(description="Nodes of the same form")]


class StatusesWish(TypedDict):
    ids: Annotated[list[UUID], Meta(max_length=100)]


class Statuses(TypedDict):
    session_status_map: Annotated[dict[str, str], Meta(description="Session id to status, of known ones")]


class AbusingReport(TypedDict):
    kernel: UUID
    abuse_report: dict[str, Any] | None


class CommitState(TypedDict):
    kernel: UUID
    status: str


class DirectAccess(TypedDict):
    kernel_role: str
    session_type: str
    public_host: str | None
    sshd_ports: list[int]


INSIGHT: Mapping[str, Operation] = {
    "GET /session/{ref}/explain": about_session(
        summary="Why a session is where it is",
        about="Why it waits, why it ended, when it will be stopped and by which rule. Dead sessions too.",
        replies={200: Explanation},
    ),
    "GET /session/{ref}/status-history": about_session(
        summary="When a session had which status",
        replies={200: StatusHistory},
    ),
    "GET /session/{ref}/dependency-graph": about_session(
        summary="What a session depends on, as a tree",
        replies={200: DependencyNode},
    ),
    "GET /session/{ref}/abusing-report": about_session(
        summary="Whether a session was reported for abuse",
        replies={200: AbusingReport},
    ),
    "GET /session/{ref}/direct-access-info": about_session(
        summary="How to reach a session without this API: not at all",
        replies={200: DirectAccess},
    ),
    "GET /session/{ref}/commit": about_session(
        summary="Whether a session is being made an image",
        replies={200: CommitState},
    ),
    "POST /session/{ref}/commit": about_session(
        summary="Make an image of a session: always refused",
        refusals=(NotImplementedByServer,),
    ),
    "POST /session/_/transit-status": about_session(
        summary="Statuses of sessions",
        body=StatusesWish,
        replies={200: Statuses},
    ),
}
