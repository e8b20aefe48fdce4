"""Every server option, defined once.

Names follow the manager these clients grew up with wherever it had the option (contract 01 §8):
``service-ip``, ``service-port``, ``db-addr``, ``redis-addr``, ``events-port``, ``heartbeat-timeout``,
``agent-port``, ...
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import platformdirs

from backendai.cli import kinds
from backendai.cli.options import Option

_HOME = platformdirs.user_data_path("backendai", appauthor=False)
_HOST = socket.gethostname()

# -- all commands
# -------------------------------------------------------------------------------------------------

LOG_FORMAT = Option(
    name="log-format",
    kind=kinds.one_of("console", "json"),
    default="console",
    help="How log lines are written.",
)
LOG_LEVEL = Option(
    name="log-level", kind=kinds.one_of("debug", "info", "warning", "error"), default="info",
    help="The least that is logged.",
)  # fmt: skip
READY_FD = Option(
    name="ready-fd",
    kind=kinds.whole(0),
    internal=True,
    help="Descriptor to write one JSON line to, once ready.",
)
LOGGING = (LOG_FORMAT, LOG_LEVEL)

# -- databases
# ----------------------------------------------------------------------------------------------------

DATABASE_URL = Option(
    name="database-url", kind=kinds.DATABASE_URL, secret=True, default_text="made from the db options",
    help="PostgreSQL, as postgresql://user:password@host:port/name or with ?host=/socket/directory.",
)  # fmt: skip
DB_ADDR = Option(
    name="db-addr", kind=kinds.ADDRESS, default=("127.0.0.1", 5432), help="Where PostgreSQL listens."
)
DB_NAME = Option(name="db-name", kind=kinds.TEXT, default="backendai", help="Name of the database.")
DB_USER = Option(name="db-user", kind=kinds.TEXT, default="backendai", help="User of the database.")
DB_PASSWORD = Option(
    name="db-password", kind=kinds.SECRET, secret=True, default_text="none", help="Password of that user."
)
REDIS_URL = Option(
    name="redis-url", kind=kinds.REDIS_URL, secret=True, default_text="made from the redis options",
    help="Redis or Valkey, as redis(s)://:password@host:port or unix:///path. Databases 1 to 4 are used.",
)  # fmt: skip
REDIS_ADDR = Option(
    name="redis-addr", kind=kinds.ADDRESS, default=("127.0.0.1", 6379), help="Where Redis listens."
)
REDIS_PASSWORD = Option(
    name="redis-password", kind=kinds.SECRET, secret=True, default_text="none", help="Password of Redis."
)
DATABASE = (DATABASE_URL, DB_ADDR, DB_NAME, DB_USER, DB_PASSWORD)
REDIS = (REDIS_URL, REDIS_ADDR, REDIS_PASSWORD)

# -- gateway: HTTP
# ------------------------------------------------------------------------------------------------

SERVICE_IP = Option(
    name="service-ip", kind=kinds.TEXT, default="127.0.0.1", help="Address the API binds; 0.0.0.0 for all."
)
SERVICE_PORT = Option(
    name="service-port", kind=kinds.PORT, default_text="8080, or 8443 with ssl-cert",
    help="Port of the API where there is one only: HTTPS with ssl-cert, else HTTP.",
)  # fmt: skip
HTTP_PORT = Option(
    name="http-port", kind=kinds.PORT, default_text="8080; none for a gateway alone with ssl-cert",
    help="Port for plain HTTP; 0 chooses a free one.",
)  # fmt: skip
HTTPS_PORT = Option(
    name="https-port", kind=kinds.PORT, default_text="8443; none for a gateway alone without ssl-cert",
    help="Port for HTTPS; 0 chooses a free one.",
)  # fmt: skip
SSL_CERT = Option(name="ssl-cert", kind=kinds.PATH, default_text="none", help="Certificate chain (PEM).")
SSL_KEY = Option(name="ssl-key", kind=kinds.PATH, default_text="none", help="Private key of it (PEM).")
ALLOW_ORIGINS = Option(
    name="allow-origins", kind=kinds.NAMES, default=("*",), help="Origins that CORS admits; * admits any."
)
MAX_BODY = Option(
    name="max-body", kind=kinds.SIZE, default=1 << 20, help="Largest request body that is not an upload."
)
MAX_MESSAGE = Option(name="max-message", kind=kinds.SIZE, default=16 << 20, help="Largest WebSocket message.")
MAX_UPLOAD = Option(name="max-upload", kind=kinds.SIZE, default=1 << 30, help="Largest uploaded file.")
RELAY_IDLE = Option(
    name="relay-idle", kind=kinds.DURATION, default=timedelta(minutes=10),
    help="Silence after which a terminal or tunnel is closed; answering pings is no silence.",
)  # fmt: skip
GRACE = Option(
    name="grace",
    kind=kinds.DURATION,
    default=timedelta(seconds=2),
    help="How long a stop waits for requests.",
)
DEBUG = Option(
    name="debug", kind=kinds.FLAG, default=False, help="Put tracebacks of internal errors into answers."
)
HTTP = (
    SERVICE_IP, SERVICE_PORT, HTTP_PORT, HTTPS_PORT, SSL_CERT, SSL_KEY, ALLOW_ORIGINS, MAX_BODY, MAX_MESSAGE,
    MAX_UPLOAD, RELAY_IDLE, GRACE, DEBUG,
)  # fmt: skip

# -- gateway: the interface for clients of 2017
# --------------------------------------------------------------------------------------------------

LEGACY_PORT = Option(
    name="legacy-port", kind=kinds.PORT, default_text="none; it was 5001",
    help="Port for clients of 2017, which speak ZeroMQ and cannot authenticate; 0 chooses a free one.",
)  # fmt: skip
LEGACY_ACCESS_KEY = Option(
    name="legacy-access-key", kind=kinds.TEXT, default_text="none",
    help="Access key of the account that everybody who reaches legacy-port acts for.",
)  # fmt: skip
LEGACY_IP = Option(
    name="legacy-ip", kind=kinds.TEXT, default="127.0.0.1",
    help="Address that legacy-port is bound to; whoever can reach it may use the account.",
)  # fmt: skip
KERNEL_IP_OVERRIDE = Option(
    name="kernel-ip-override", kind=kinds.TEXT, default_text="the bound address",
    help="IP address in the kernel addresses that clients of legacy-port are told.",
)  # fmt: skip
LEGACY = (LEGACY_PORT, LEGACY_ACCESS_KEY, LEGACY_IP, KERNEL_IP_OVERRIDE)

# -- gateway: manager
# ---------------------------------------------------------------------------------------------

PROCESS_ID = Option(
    name="process-id", kind=kinds.TEXT, default=f"{_HOST}-{os.getpid()}",
    default_text="host name and process id", help="Name of this process in leases and logs.",
)  # fmt: skip
EVENTS_PORT = Option(
    name="events-port",
    kind=kinds.whole(1, 65535),
    default=5002,
    help="Port where agents deliver what happened.",
)
EVENTS_ENDPOINT = Option(
    name="events-endpoint", kind=kinds.ENDPOINT, default_text="tcp://127.0.0.1: and events-port",
    help="The same as a full ZeroMQ endpoint; tcp://0.0.0.0:5002 admits agents on other hosts.",
)  # fmt: skip
MANAGER_KEYS = Option(
    name="manager-keys", kind=kinds.PATH, default=_HOME / "keys" / "manager.json",
    help="File with the key pair of the link to agents, made when missing. All gateway processes share one.",
)  # fmt: skip
LINK_ENCRYPTION = Option(
    name="link-encryption", kind=kinds.FLAG, default=True, help="Encrypt and authenticate the link to agents."
)
DATABASE_POOL = Option(
    name="database-pool", kind=kinds.whole(2), default=8, help="Most connections to PostgreSQL per process."
)
HEARTBEAT_INTERVAL = Option(
    name="heartbeat-interval",
    kind=kinds.DURATION,
    default=timedelta(seconds=3),
    help="Time between heartbeats.",
)
HEARTBEAT_TIMEOUT = Option(
    name="heartbeat-timeout", kind=kinds.DURATION, default=timedelta(seconds=30),
    help="Silence after which an agent counts as lost.",
)  # fmt: skip
AGENT_RECONCILE_FOR = Option(
    name="agent-reconcile-for", kind=kinds.DURATION, default=timedelta(minutes=10),
    help="How long the kernels of a lost agent wait for its return.",
)  # fmt: skip
SCHEDULER_INTERVAL = Option(
    name="scheduler-interval", kind=kinds.DURATION, default=timedelta(seconds=10),
    help="Time between scheduler rounds when nothing asks for one.",
)  # fmt: skip
SWEEP_INTERVAL = Option(
    name="sweep-interval", kind=kinds.DURATION, default=timedelta(seconds=5),
    help="Time between looks at sessions that are late.",
)  # fmt: skip
PENDING_TIMEOUT = Option(
    name="pending-timeout", kind=kinds.DURATION, default=timedelta(days=7),
    help="How long a session may wait for resources.",
)  # fmt: skip
START_TIMEOUT = Option(
    name="start-timeout",
    kind=kinds.DURATION,
    default=timedelta(minutes=2),
    help="How long a kernel may take to start.",
)
TERMINATE_TIMEOUT = Option(
    name="terminate-timeout", kind=kinds.DURATION, default=timedelta(minutes=1),
    help="How long a kernel may take to end.",
)  # fmt: skip
CALL_TIMEOUT = Option(
    name="call-timeout",
    kind=kinds.DURATION,
    default=timedelta(seconds=30),
    help="How long an agent may take to answer.",
)
STREAMS_PER_SESSION = Option(
    name="streams-per-session", kind=kinds.whole(1), default=2048,
    help="Most terminals, tunnels and file transfers of one session at once.",
)  # fmt: skip
STREAMS = Option(
    name="streams", kind=kinds.whole(1), default=4096,
    help="Most terminals, tunnels and file transfers that one gateway process carries at once.",
)  # fmt: skip
LEASE_TTL = Option(
    name="lease-ttl", kind=kinds.DURATION, default=timedelta(seconds=10),
    help="Time after which the duties of a dead gateway process pass to another.",
)  # fmt: skip
LOG_RETENTION = Option(
    name="log-retention", kind=kinds.DURATION, default=timedelta(days=30),
    help="How long the output of ended sessions is kept.",
)  # fmt: skip
LOG_LIMIT = Option(
    name="log-limit", kind=kinds.size(10 << 20), default=10 << 20,
    help="Bytes of a session's log that are shown, and kept after its end: the last ones. At most 10m.",
)  # fmt: skip
REPLAY_LIMIT = Option(
    name="replay-limit", kind=kinds.size(8 << 20), default=4 << 20,
    help="Bytes kept of what the runs of an ended session printed, item by item. At most 8m.",
)  # fmt: skip
EVENT_RETENTION = Option(
    name="event-retention", kind=kinds.DURATION, default=timedelta(days=3),
    help="How long a reader of session events may stay away and still miss none.",
)  # fmt: skip
CALLBACK_NETWORKS = Option(
    name="callback-networks", kind=kinds.NETWORKS, default=(),
    help="Networks that callbacks of sessions may reach although they are loopback, link-local or alike.",
)  # fmt: skip
MANAGER = (
    PROCESS_ID, EVENTS_PORT, EVENTS_ENDPOINT, MANAGER_KEYS, LINK_ENCRYPTION, DATABASE_POOL,
    HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, AGENT_RECONCILE_FOR, SCHEDULER_INTERVAL, SWEEP_INTERVAL,
    PENDING_TIMEOUT, START_TIMEOUT, TERMINATE_TIMEOUT, CALL_TIMEOUT,
    STREAMS_PER_SESSION, STREAMS, LEASE_TTL,
    LOG_RETENTION, LOG_LIMIT, REPLAY_LIMIT, EVENT_RETENTION, CALLBACK_NETWORKS,
)  # fmt: skip

# -- agent
# --------------------------------------------------------------------------------------------------------

AGENT_ID = Option(name="agent-id", kind=kinds.TEXT, default=f"i-{_HOST}", help="Name of this agent, unique.")
AGENT_DIR = Option(
    name="agent-dir", kind=kinds.PATH, default=_HOME / "agent", help="Where the agent keeps its kernels."
)
AGENT_KEYS = Option(
    name="agent-keys", kind=kinds.PATH, default_text="keys.json in agent-dir",
    help="File with the agent's key pair, made by `backendai agent enroll`.",
)  # fmt: skip
MANAGER_ENDPOINT = Option(
    name="manager-endpoint", kind=kinds.ENDPOINT, default_text="as enrolled, or tcp://127.0.0.1:5002",
    help="Where the agent delivers what happened.",
)  # fmt: skip
AGENT_IP = Option(
    name="agent-ip", kind=kinds.TEXT, default="127.0.0.1", help="Address where the agent awaits calls."
)
AGENT_PORT = Option(
    name="agent-port", kind=kinds.PORT, default=6001, help="Port where it awaits calls; 0 chooses a free one."
)
AGENT_ENDPOINT = Option(
    name="agent-endpoint", kind=kinds.ENDPOINT, default_text="made from agent-ip and agent-port",
    help="The same as a full ZeroMQ endpoint.",
)  # fmt: skip
AGENT_ADVERTISE = Option(
    name="agent-advertise", kind=kinds.ENDPOINT, default_text="agent-endpoint",
    help="The endpoint that gateways are told, when it is another one.",
)  # fmt: skip
CLUSTER_ENDPOINT = Option(
    name="cluster-endpoint", kind=kinds.ENDPOINT, default_text="none: no session is spread over this agent",
    help="Where frames between kernels of a session on several agents are awaited, tcp://address:port.",
)  # fmt: skip
CLUSTER_ADVERTISE = Option(
    name="cluster-advertise", kind=kinds.ENDPOINT, default_text="cluster-endpoint",
    help="The endpoint that the other agents are told, when it is another one.",
)  # fmt: skip
REGION = Option(name="region", kind=kinds.TEXT, default="local", help="Region of the agent.")
SCALING_GROUP = Option(
    name="scaling-group", kind=kinds.TEXT, default="default", help="Scaling group of the agent."
)
WARM_POOL = Option(
    name="warm-pool", kind=kinds.whole(0, 64), default=1, help="Kernels kept ready per image; 0 keeps none."
)
WARM_IMAGES = Option(
    name="warm-images", kind=kinds.NAMES, default=(), default_text="the default Python image",
    help="Images of which kernels are kept ready.",
)  # fmt: skip
ORPHAN_TIMEOUT = Option(
    name="orphan-timeout", kind=kinds.DURATION, default=timedelta(minutes=10),
    help="How long kernels live on without an agent. (1m under `up`)",
)  # fmt: skip
AGENT_CPU = Option(
    name="agent-cpu",
    kind=kinds.number(0),
    default_text="as the host has",
    help="Processor cores offered; may be more than there are. (six times as many under `up`)",
)
AGENT_MEMORY = Option(
    name="agent-memory", kind=kinds.SIZE, default_text="as the host has", help="Memory offered."
)
REQUIRE_FULL_ISOLATION = Option(
    name="require-full-isolation", kind=kinds.FLAG, default=False,
    help="Start no kernel where a sandbox mechanism is missing, rather than a weaker one.",
)  # fmt: skip
KEEP_KERNELS = Option(
    name="keep-kernels", kind=kinds.FLAG, default=True,
    help="Leave kernels running when the agent stops, for its next start. (false under `up`)",
)  # fmt: skip
UNFETCHED_OUTPUT = Option(
    name="unfetched-output", kind=kinds.SIZE, default=1 << 30,
    help="Most bytes kept of what ended sessions printed and no gateway has fetched yet; the oldest goes.",
)  # fmt: skip
AGENT = (
    AGENT_ID, AGENT_DIR, AGENT_KEYS, LINK_ENCRYPTION, MANAGER_ENDPOINT, AGENT_IP, AGENT_PORT, AGENT_ENDPOINT,
    AGENT_ADVERTISE, CLUSTER_ENDPOINT, CLUSTER_ADVERTISE, REGION, SCALING_GROUP, HEARTBEAT_INTERVAL,
    WARM_POOL, WARM_IMAGES, ORPHAN_TIMEOUT,
    AGENT_CPU, AGENT_MEMORY, REQUIRE_FULL_ISOLATION, KEEP_KERNELS, UNFETCHED_OUTPUT,
)  # fmt: skip

# -- up
# -----------------------------------------------------------------------------------------------------------

DATA_DIR = Option(
    name="data-dir",
    kind=kinds.PATH,
    default=_HOME,
    help="Where everything is kept; one `up` at a time per directory.",
)

# -- by command
# ---------------------------------------------------------------------------------------------------

GATEWAY_COMMAND = (*HTTP, *LEGACY, *DATABASE, *REDIS, *MANAGER, *LOGGING, READY_FD)
AGENT_COMMAND = (*AGENT, *LOGGING, READY_FD)
#: What `up` decides on itself; further options of gateway and agent reach them by environment or file.
UP_COMMAND = (
    DATA_DIR, SERVICE_IP, HTTP_PORT, HTTPS_PORT, SSL_CERT, SSL_KEY, DATABASE_URL, REDIS_URL, EVENTS_ENDPOINT,
    AGENT_ID, WARM_POOL, WARM_IMAGES, ORPHAN_TIMEOUT, AGENT_CPU, AGENT_MEMORY, REQUIRE_FULL_ISOLATION, DEBUG,
    *LEGACY, *LOGGING,
)  # fmt: skip
DATABASE_COMMAND = DATABASE
ALL = tuple({option.name: option for option in (DATA_DIR, *GATEWAY_COMMAND, *AGENT_COMMAND)}.values())
#: Modules that need a place of their own start from here.
DEFAULT_DATA_DIR: Path = _HOME
