"""What one agent needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from backendai.core.account import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentKeys:
    """The agent's own CURVE key pair and the public key of the manager it belongs to (Z85 text)."""

    public_key: str
    manager_public_key: str
    secret_key: Secret = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    agent_id: str
    #: Everything the agent keeps: kernels, their journals, its lock.
    directory: Path
    #: Where facts go.
    manager_endpoint: str = "tcp://127.0.0.1:5002"
    #: Where calls are awaited; port 0 chooses a free one.
    bind: str = "tcp://127.0.0.1:6001"
    #: The address told to managers when it differs from ``bind`` (behind NAT, 0.0.0.0).
    advertise: str | None = None
    #: Where frames of sessions that are spread over agents are awaited; None takes no part in such sessions.
    cluster_bind: str | None = None
    #: The address told to the other agents when it differs.
    cluster_advertise: str | None = None
    keys: AgentKeys | None = None
    region: str = "local"
    scaling_group: str = "default"
    heartbeat_interval: timedelta = timedelta(seconds=3)
    #: Warm kernels kept ready per image; 0 keeps none.
    warm_pool: int = 1
    #: Images (kernelspec names) that have a pool; empty means the default Python image only.
    warm_images: tuple[str, ...] = ()
    #: How long a runner waits for an agent before it ends its kernel and itself.
    orphan_timeout: timedelta = timedelta(minutes=10)
    #: What a stop does with the kernels: leave them to their runners for the next start, or end them.
    keep_kernels: bool = True
    #: Bytes kept of what ended kernels printed, until a manager has fetched it; past that the oldest goes.
    most_output: int = 1 << 30
    #: Resources offered; None measures the host. cpu in cores (may exceed the host: overbooking), memory
    #: in bytes.
    cpu: float | None = None
    memory: int | None = None
    #: Refuse to start kernels when a sandbox mechanism is missing, instead of running weaker.
    require_full_isolation: bool = False
    log_format: str = "console"
    log_level: str = "info"
    #: Written to once a manager has accepted the agent, as one JSON line ``{"address": ...}``.
    ready_fd: int | None = None
