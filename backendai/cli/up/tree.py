"""The tree of processes under ``up``, an ``async with`` per branch: read down at start, up at stop."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

import backendai
from backendai.cli import catalogue as c
from backendai.cli.build import UpSettings
from backendai.cli.options import Option, Origin, Settings, environment
from backendai.cli.up.announce import Announcement
from backendai.cli.up.given import check_given_servers
from backendai.cli.up.keeper import Announcement as Announced
from backendai.cli.up.keeper import Keeper
from backendai.core.account import Secret
from backendai.embedded.accounts import prepare_accounts
from backendai.embedded.child import Child, ChildSpec, describe_exit, log_tail, open_child
from backendai.embedded.keys import ensure_agent_keys, ensure_manager_keys
from backendai.embedded.places import claim_directory, open_runtime_directory, port_problem
from backendai.embedded.postgres import open_postgres
from backendai.embedded.tls import Certificate, ensure_certificate
from backendai.embedded.valkey import open_valkey
from backendai.storage.seed import FirstAccounts
from backendai.supervision.service import open_service

Say = Callable[[str], None]

#: Seconds within which each branch must have stopped; together below the five that a stop may take.
_AGENT_STOPS_WITHIN = 3.0
_GATEWAY_STOPS_WITHIN = 1.2
_LARGEST_LOG = 10 << 20
#: Cores offered per core of the host: sessions mostly wait for their users, and a small machine is to serve
#: more of them than it has cores. Each kernel is still limited to the cores that it was given.
_CPU_OVERBOOKING = 6


class PortTaken(Exception):
    """Another program listens where the gateway should."""


class MigrationFailed(Exception):
    """The tables could not be brought to this version."""


@dataclass(slots=True)
class Plan:
    """All that the branches need to know, filled in one go before the first of them starts."""

    up: UpSettings
    values: Settings
    #: The configuration file in use, for the processes that are started.
    config: Path | None
    say: Say

    @property
    def logs(self) -> Path:
        return self.up.data_dir / "logs"

    @property
    def agent_directory(self) -> Path:
        return self.up.data_dir / "agent"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


@dataclass(frozen=True, slots=True)
class Servers:
    database_url: Secret = field(repr=False)
    redis_url: Secret = field(repr=False)
    #: Those that are embedded.
    children: Mapping[str, Child]


@asynccontextmanager
async def open_tree(plan: Plan) -> AsyncIterator[tuple[Announcement, Secret]]:
    """Everything, running; yields how to reach it, and its database's URL.

    An end of a database during the body raises ``ChildExited`` in a group.
    """
    up = plan.up
    with claim_directory(up.data_dir), open_runtime_directory(up.data_dir) as runtime:
        plan.logs.mkdir(mode=0o700, exist_ok=True)
        _shorten_logs(plan.logs)
        _check_ports(up)
        certificate = _certificate(up)
        manager_keys = ensure_manager_keys(up.data_dir / "keys" / "manager.json")
        agent_keys = ensure_agent_keys(
            plan.agent_directory / "keys.json", manager_public_key=manager_keys.public_key
        )
        await check_given_servers(up.database_url, up.redis_url)
        if up.database_url is None or up.redis_url is None:
            plan.say("starting the databases")
        async with _open_servers(plan, runtime) as servers:
            plan.say("checking the tables")
            await _migrate(plan, servers)
            accounts = await prepare_accounts(
                servers.database_url,
                agent_id=plan.values[c.AGENT_ID],
                agent_public_key=agent_keys.pair.public_key,
            )
            events = up.events_endpoint or f"ipc://{runtime}/events"
            gateway = Keeper("gateway", _gateway(plan, servers, certificate, events), say=plan.say)
            agent = Keeper("agent", _agent(plan, events, runtime), say=plan.say)
            plan.say("starting gateway and agent")
            async with _open_both(gateway, agent):
                announcement = _announcement(plan, accounts, certificate, servers, gateway, agent)
                yield announcement, servers.database_url


@asynccontextmanager
async def _open_servers(plan: Plan, runtime: Path) -> AsyncIterator[Servers]:
    """The embedded servers, save those that are replaced by given ones. One that ends cancels the body."""
    async with AsyncExitStack() as stack:
        children = {}
        database_url, redis_url = plan.up.database_url, plan.up.redis_url
        if database_url is None:
            directory = plan.up.data_dir / "postgres"
            postgres = await stack.enter_async_context(
                open_postgres(directory, runtime, log=plan.log("postgres"))
            )
            database_url, children["postgres"] = postgres.url, postgres.child
        if redis_url is None:
            valkey = await stack.enter_async_context(open_valkey(runtime, log=plan.log("valkey")))
            redis_url, children["valkey"] = valkey.url, valkey.child
        async with trio.open_nursery() as watchers:
            for name, child in children.items():
                watchers.start_soon(child.watch, name=f"watch {name}")
            try:
                yield Servers(database_url, redis_url, children)
            finally:
                watchers.cancel_scope.cancel()


async def _migrate(plan: Plan, servers: Servers) -> None:
    """Bring the tables to this version, in a process of its own: what that needs would stay in our memory."""
    spec = ChildSpec(
        name="migration",
        command=_ourselves("db", "upgrade"),
        environ=_environ(plan, {c.DATABASE_URL: servers.database_url}, secrets=True),
        log=plan.log("migration"),
    )
    async with open_child(spec) as child:
        returncode = await child.wait()
    if returncode != 0:
        raise MigrationFailed(
            f"the migration of the database {describe_exit(returncode)}{log_tail(spec.log)}"
        )


@asynccontextmanager
async def _open_both(gateway: Keeper, agent: Keeper) -> AsyncIterator[None]:
    """Gateway and agent; the agent stops first, so that the gateway learns what became of the kernels."""
    async with open_service(gateway.run, name="gateway"), open_service(agent.run, name="agent"):
        await gateway.served()
        await agent.served()
        yield


def _gateway(
    plan: Plan, servers: Servers, certificate: Certificate, events: str
) -> Callable[[int, Announced | None], ChildSpec]:
    def command(ready_fd: int, first: Announced | None) -> ChildSpec:
        up = plan.up
        ports = first or {"http_port": up.http_port, "https_port": up.https_port}
        values: dict[Option[Any], Any] = {
            c.DATABASE_URL: servers.database_url,
            c.REDIS_URL: servers.redis_url,
            c.SERVICE_IP: up.service_ip,
            c.HTTP_PORT: ports["http_port"],
            c.HTTPS_PORT: ports["https_port"],
            c.SSL_CERT: certificate.chain,
            c.SSL_KEY: certificate.key,
            c.MANAGER_KEYS: up.data_dir / "keys" / "manager.json",
            c.LINK_ENCRYPTION: True,
            c.EVENTS_ENDPOINT: events,
            c.READY_FD: ready_fd,
        }
        if first and first["legacy_port"] is not None:  # the same again, though any free one was asked for
            values[c.LEGACY_PORT] = first["legacy_port"]
        return ChildSpec(
            name="gateway",
            command=_ourselves("gateway"),
            environ=_environ(plan, values, secrets=True, drop=(c.SERVICE_PORT,), flags_of=c.GATEWAY_COMMAND),
            log=plan.log("gateway"),
            pass_fds=(ready_fd,),
            stop_within=_GATEWAY_STOPS_WITHIN,
        )

    return command


def _agent(plan: Plan, events: str, runtime: Path) -> Callable[[int, Announced | None], ChildSpec]:
    def command(ready_fd: int, first: Announced | None) -> ChildSpec:
        values: dict[Option[Any], Any] = {
            c.AGENT_DIR: plan.agent_directory,
            c.AGENT_KEYS: plan.agent_directory / "keys.json",
            c.AGENT_ID: plan.values[c.AGENT_ID],
            c.LINK_ENCRYPTION: True,
            c.MANAGER_ENDPOINT: events,
            c.AGENT_ENDPOINT: f"ipc://{runtime}/agent",
            c.ORPHAN_TIMEOUT: plan.up.orphan_timeout,
            c.KEEP_KERNELS: False,
            c.AGENT_CPU: plan.values.get(c.AGENT_CPU) or _CPU_OVERBOOKING * len(os.sched_getaffinity(0)),
            c.READY_FD: ready_fd,
        }
        return ChildSpec(
            name="agent",
            command=_ourselves("agent"),
            environ=_environ(
                plan, values, secrets=False, drop=(c.AGENT_ADVERTISE,), flags_of=c.AGENT_COMMAND
            ),
            log=plan.log("agent"),
            pass_fds=(ready_fd,),
            stop_within=_AGENT_STOPS_WITHIN,
        )

    return command


def _ourselves(*arguments: str) -> list[str]:
    # -P: a module in the directory we happen to be in must not pass for one of ours.
    return [sys.executable, "-P", "-m", "backendai", *arguments]


def _environ(
    plan: Plan,
    values: Mapping[Option[Any], Any],
    *,
    secrets: bool,
    drop: Iterable[Option[Any]] = (),
    flags_of: Iterable[Option[Any]] = (),
) -> dict[str, str]:
    """Our environment with these values in it, and with the flags we were given that are also the process's.

    ``secrets=False`` leaves out every secret that our own environment holds.
    """
    dropped = {option.variable for option in drop}
    if not secrets:
        dropped |= {option.variable for option in c.ALL if option.secret}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    names = {option.name for option in flags_of}
    flags = {
        setting.option: setting.value
        for setting in plan.values
        if setting.origin is Origin.FLAG and setting.option.name in names
    }
    kept["PYTHONPATH"] = str(Path(backendai.__file__).parents[1])
    if plan.config is not None:
        kept["BACKEND_CONFIG"] = str(plan.config)
    return kept | environment(flags) | environment(values)


def _announcement(
    plan: Plan,
    accounts: FirstAccounts,
    certificate: Certificate,
    servers: Servers,
    gateway: Keeper,
    agent: Keeper,
) -> Announcement:
    legacy = plan.up.legacy
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(plan.up.service_ip, plan.up.service_ip)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    return Announcement(
        endpoint=f"http://{host}:{gateway.announced['http_port']}",
        endpoint_tls=f"https://{host}:{gateway.announced['https_port']}",
        accounts=accounts,
        pids={
            "up": os.getpid(),
            **{name: child.pid for name, child in servers.children.items()},
            "gateway": gateway.pid,
            "agent": agent.pid,
        },
        data_dir=plan.up.data_dir,
        authority=certificate.authority if plan.up.ssl_cert is None else None,
        legacy_endpoint=None if legacy is None else f"tcp://{legacy.ip}:{gateway.announced['legacy_port']}",
    )


def _certificate(up: UpSettings) -> Certificate:
    if up.ssl_cert is not None and up.ssl_key is not None:
        return Certificate(up.ssl_cert, up.ssl_key, up.ssl_cert)
    names = () if up.service_ip in ("0.0.0.0", "::") else (up.service_ip,)  # noqa: S104
    return ensure_certificate(up.data_dir / "tls", now=datetime.now(UTC), names=names)


def _check_ports(up: UpSettings) -> None:
    """Say which port is taken before anything is started. Raises :class:`PortTaken`."""
    wanted = [(c.HTTP_PORT, up.service_ip, up.http_port), (c.HTTPS_PORT, up.service_ip, up.https_port)]
    if up.legacy is not None:
        wanted.append((c.LEGACY_PORT, up.legacy.ip, up.legacy.port))
    for option, ip, port in wanted:
        problem = port_problem(ip, port)
        if problem:
            reason = f"cannot listen on {ip}:{port} ({problem})"
            raise PortTaken(f"{reason}; {option.flag} chooses another, 0 a free one")


def _shorten_logs(directory: Path) -> None:
    """Start large logs anew, keeping the last one of each."""
    for log in directory.glob("*.log"):
        if log.stat().st_size > _LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
