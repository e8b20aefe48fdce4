"""One agent: the ladder from its directory to the calls it serves."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import uuid4

import structlog
import trio

import backendai
from backendai.agent.calls import CallServer
from backendai.agent.cluster_link import ClusterLink, open_cluster_link
from backendai.agent.directory import AgentDirectory, hold_directory
from backendai.agent.facts import FactOutbox
from backendai.agent.host import RunnerHost, ZygoteHost, runner_spec
from backendai.agent.images import choose_warm, installed_images
from backendai.agent.kernels import Kernels
from backendai.agent.networks import SessionNetworks
from backendai.agent.pool import WarmPool
from backendai.agent.resources import node_stat, offered_slots
from backendai.agent.settings import AgentSettings
from backendai.agent.streams import StreamRelays
from backendai.agent.uplink import Uplink
from backendai.bridges.zmq import AllowedKeys, CurveServer, SocketType, ZmqSocket, open_socket
from backendai.engines.probe import probe_host
from backendai.engines.sweep import sweep_leftovers
from backendai.runner.zygote import open_runner_zygote
from backendai.supervision.periodic import periodic
from backendai.supervision.service import open_service
from backendai.wire.link import MAX_MESSAGE_BYTES, Heartbeat, Hello

log = structlog.get_logger(__name__)

#: Seconds a stop has to end all kernels and say goodbye.
_STOP_TIMEOUT = 4.0
#: How often a quiet gateway is probed, so that nothing is kept for one that is gone.
_PROBE_INTERVAL = timedelta(seconds=10)
_SWEEP_INTERVAL = timedelta(seconds=20)


async def serve(
    settings: AgentSettings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be an agent until cancelled; ``started`` with the address of the call socket.

    Cancellation leaves kernels to their runners or ends them, as ``settings.keep_kernels`` says, within
    about five seconds. Raises :exc:`~backendai.agent.directory.DirectoryHeld` when another agent works on the
    directory, :exc:`OSError` when the address is taken, :exc:`ValueError` for images or keys that are none.
    """
    with hold_directory(settings.directory, settings.agent_id, settings.most_output) as directory:
        async with (
            _open_call_socket(settings) as socket,
            open_cluster_link(settings) as link,
            open_runner_zygote() as zygote,
        ):
            await _serve(settings, directory, socket, link, ZygoteHost(zygote), task_status)


async def _serve(
    settings: AgentSettings,
    directory: AgentDirectory,
    socket: ZmqSocket,
    link: ClusterLink | None,
    host: RunnerHost,
    task_status: trio.TaskStatus[str],
) -> None:
    boot_id = uuid4().hex
    images = installed_images()
    offered = offered_slots(settings)
    outbox = FactOutbox(settings.agent_id, boot_id)
    pool = WarmPool(
        host,
        directory,
        choose_warm(images, settings.warm_images) if settings.warm_pool else (),
        settings.warm_pool,
        partial(runner_spec, settings, warm=True),
    )
    networks = SessionNetworks(link)
    kernels = Kernels(
        host,
        directory,
        images,
        offered,
        outbox,
        pool,
        partial(runner_spec, settings, warm=False),
        networks,
    )
    streams = StreamRelays(socket, kernels)
    address = settings.advertise or socket.endpoint
    numbers = itertools.count(1)
    isolation = await _isolation()

    def hello() -> Hello:
        return Hello(
            agent_id=settings.agent_id,
            boot_id=boot_id,
            version=backendai.__version__,
            address=address,
            public_key=settings.keys.public_key if settings.keys else "",
            cluster_endpoint=link.endpoint if link else "",
            architecture=os.uname().machine,
            region=settings.region,
            scaling_group=settings.scaling_group,
            slots={name: str(amount) for name, amount in offered.items()},
            images=tuple(images.values()),
            kernels=kernels.facts(),
            isolation=isolation,
        )

    async def heartbeat() -> Heartbeat:
        return Heartbeat(
            agent_id=settings.agent_id,
            boot_id=boot_id,
            seq=next(numbers),
            kernels=await kernels.measure(),
            starting=kernels.starting(),
            node=node_stat(),
            ended=directory.outputs.waiting(),
        )

    uplink = Uplink(settings, boot_id, outbox, hello=hello, heartbeat=heartbeat)
    async with (
        open_service(networks.run, name="networks"),
        open_service(kernels.run, name="kernels"),
        open_service(partial(periodic, _SWEEP_INTERVAL, _sweep, name="sweep"), name="sweep"),
        open_service(pool.run, name="warm pool"),
        open_service(uplink.run, name="uplink"),
        _farewell(settings, kernels, pool, uplink),
        open_service(streams.run, name="streams"),
        open_service(CallServer(socket, kernels, streams).run, name="calls"),
    ):
        log.info("agent.ready", agent=settings.agent_id, address=address, images=sorted(images))
        task_status.started(address)
        # Who waits for us is about to ask for sessions, which need our images to be known.
        await uplink.accepted()
        _announce(settings.ready_fd, address)
        await trio.sleep_forever()


async def _isolation() -> dict[str, str]:
    """What kernels of this host are held by; what is missing goes to the log, with what it costs."""
    host = await trio.to_thread.run_sync(probe_host)
    for lack in host.missing:
        log.warning(
            "agent.isolation-missing", what=lack.name, found=lack.found, cost=lack.cost, mend=lack.mend
        )
    return host.isolation


async def _sweep() -> None:
    """Runners that were killed leave control groups behind."""
    if names := await trio.to_thread.run_sync(sweep_leftovers):
        log.info("agent.swept", leftovers=names)


@asynccontextmanager
async def _farewell(
    settings: AgentSettings, kernels: Kernels, pool: WarmPool, uplink: Uplink
) -> AsyncIterator[None]:
    """On leaving, end the kernels if they are not to be kept, and tell the manager."""
    try:
        yield
    finally:
        with trio.move_on_after(_STOP_TIMEOUT, shield=True) as scope:
            if not settings.keep_kernels:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(pool.close)
                    nursery.start_soon(kernels.end_all, "agent-shutdown")
            await uplink.say_goodbye("agent-restart" if settings.keep_kernels else "shutdown")
        if scope.cancelled_caught:
            log.error("agent.stop-incomplete", seconds=_STOP_TIMEOUT)


@asynccontextmanager
async def _open_call_socket(settings: AgentSettings) -> AsyncIterator[ZmqSocket]:
    curve = None
    if settings.keys is None:
        log.warning("agent.link-unencrypted", cost="whoever reaches the address commands this agent")
    else:
        curve = CurveServer(settings.keys.secret_key, AllowedKeys([settings.keys.manager_public_key]))
    async with open_socket(
        SocketType.ROUTER,
        bind=settings.bind,
        curve=curve,
        # A ROUTER drops what does not fit. The windows of streams bound what can wait, calls are few.
        hwm=1 << 20,
        max_message=MAX_MESSAGE_BYTES,
        heartbeat=_PROBE_INTERVAL,
    ) as socket:
        yield socket


def _announce(ready_fd: int | None, address: str) -> None:
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w") as ready:
            ready.write(json.dumps({"address": address}) + "\n")
