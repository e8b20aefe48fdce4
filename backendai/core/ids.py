"""Identifiers, as distinct types so that one is never passed for another."""

from __future__ import annotations

import secrets
from typing import NewType
from uuid import UUID, uuid4

SessionId = NewType("SessionId", UUID)
#: The main kernel of a session has the session's own UUID; clients rely on it (contract 02 §2.7).
KernelId = NewType("KernelId", UUID)
#: ``i-<host>`` by convention.
AgentId = NewType("AgentId", str)
AccessKey = NewType("AccessKey", str)
#: One execution inside a kernel. Clients choose it (any short text) or leave it to us.
RunId = NewType("RunId", str)


def new_session_id() -> SessionId:
    return SessionId(uuid4())


def new_kernel_id() -> KernelId:
    return KernelId(uuid4())


def new_run_id() -> RunId:
    """32 hexadecimal digits, the form clients expect of a server-made run id (contract 02 §7.2)."""
    return RunId(secrets.token_hex(16))
