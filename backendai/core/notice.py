"""What the processes of one installation tell each other, as a closed union.

Notices travel by PostgreSQL's NOTIFY, sent inside the transaction that makes them true: a notice that was
heard has happened. They may be lost with the connection, so nothing may depend on a notice alone.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from backendai.core.kernel import ServicePort
from backendai.core.session import SessionEvent, SessionStatus

#: The channel they are sent on.
CHANNEL = "notices"


class _Notice(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class SessionChanged(_Notice, frozen=True, kw_only=True):
    """``status`` is the session's after the event; ``service_ports`` come with the start of the main
    kernel.
    """

    event: SessionEvent
    status: SessionStatus
    service_ports: tuple[ServicePort, ...] = ()


class AccountsChanged(_Notice, frozen=True, kw_only=True):
    """Sent by triggers; without ``access_key`` any account may have changed."""

    access_key: str | None = None


class SettingsChanged(_Notice, frozen=True, kw_only=True):
    pass


class WorkWaits(_Notice, frozen=True, kw_only=True):
    """Room was made or agents came: the scheduler should look."""


class AgentRestarted(_Notice, frozen=True, kw_only=True):
    """The process that took calls at ``address`` with this key is gone, and with it what it was asked."""

    address: str
    public_key: str


class TaskChanged(_Notice, frozen=True, kw_only=True):
    """A background task has something new to tell."""

    task_id: UUID


class CallbackWaits(_Notice, frozen=True, kw_only=True):
    """Sent by a trigger: an event is to be told to a URL."""


Notice = (
    SessionChanged
    | AccountsChanged
    | SettingsChanged
    | WorkWaits
    | AgentRestarted
    | TaskChanged
    | CallbackWaits
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Notice] = msgspec.json.Decoder(Notice)


def encode(notice: Notice) -> str:
    return _encoder.encode(notice).decode()


def decode(text: str) -> Notice:
    """Raises :class:`msgspec.MsgspecError` on anything else."""
    return _decoder.decode(text)
