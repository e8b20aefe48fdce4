"""What the manager's services and loops need to know, complete and unchanging while the process runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from backendai.core.account import Secret
from backendai.core.addresses import Network
from backendai.core.output import MOST_LOG


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerKeys:
    """The CURVE key pair that every gateway process of one installation shares (Z85 text, 40 characters)."""

    public_key: str
    secret_key: Secret = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    #: ``postgresql://user:password@host:port/name``, or with ``?host=/socket/dir``.
    database_url: Secret = field(repr=False)
    #: ``redis://host:port`` or ``unix:///path``; the database ids 1, 2, 3, 4... are ours to choose.
    redis_url: Secret = field(repr=False)
    #: Name of this process in leases and logs.
    process_id: str
    #: Where agents send facts, e.g. ``tcp://127.0.0.1:5002``. Bound by the holder of the fleet lease.
    facts_endpoint: str = "tcp://127.0.0.1:5002"
    #: None runs the link without encryption: development and tests only.
    keys: ManagerKeys | None = None
    database_pool: int = 8
    heartbeat_interval: timedelta = timedelta(seconds=3)
    #: Silence after which an agent counts as LOST.
    agent_lost_after: timedelta = timedelta(seconds=30)
    #: How long kernels of a LOST agent are kept in the book, waiting for it to come back with them.
    agent_reconcile_for: timedelta = timedelta(minutes=10)
    #: Seconds between scheduler rounds when no NOTIFY came.
    scheduler_interval: timedelta = timedelta(seconds=10)
    sweep_interval: timedelta = timedelta(seconds=5)
    pending_timeout: timedelta = timedelta(days=7)
    start_timeout: timedelta = timedelta(minutes=2)
    terminate_timeout: timedelta = timedelta(minutes=1)
    call_timeout: timedelta = timedelta(seconds=30)
    #: Terminals, app connections and file transfers that may be open at once, of one session and of all that
    #: this process serves.
    streams_per_session: int = 2048
    streams: int = 4096
    lease_ttl: timedelta = timedelta(seconds=10)
    #: How long the output of ended kernels is kept, how many bytes of a kernel's log are shown and kept (the
    #: last ones), and how many of what its runs printed.
    log_retention: timedelta = timedelta(days=30)
    log_limit: int = MOST_LOG
    replay_limit: int = 4 << 20
    #: How long events of sessions can be asked for again.
    event_retention: timedelta = timedelta(days=3)
    #: Where callbacks may go although users could not send us there otherwise (``core.addresses``).
    callback_networks: tuple[Network, ...] = ()
