"""Put the manager together: resources, services, loops."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable, open_database
from backendai.bridges.redis import open_redis
from backendai.core.lifecycle import Deadlines
from backendai.manager.accounts import AccountService
from backendai.manager.callbacks import CallbackSender
from backendai.manager.chronicle import ChronicleService
from backendai.manager.creation import SessionCreation
from backendai.manager.cursors import StreamCursors
from backendai.manager.directory import DirectoryService
from backendai.manager.dotfiles import DotfileService
from backendai.manager.enrollment import Enrollment
from backendai.manager.events import EventService
from backendai.manager.execution import ExecutionService
from backendai.manager.explain import ExplainService
from backendai.manager.fleet import Fleet
from backendai.manager.health import HealthService
from backendai.manager.image_service import ImageService
from backendai.manager.janitor import Janitor
from backendai.manager.lease import Lease
from backendai.manager.link import AgentAddress, AgentCaller, open_agent_links
from backendai.manager.listener import FactListener
from backendai.manager.live_stats import HeardStats, LiveStats
from backendai.manager.logs import LogArchive
from backendai.manager.notices import NoticeBoard
from backendai.manager.presence import Presence
from backendai.manager.rate import RateLimiter
from backendai.manager.reconciler import Reconciler
from backendai.manager.scheduler import Scheduler
from backendai.manager.sessions import SessionService
from backendai.manager.settings import ManagerSettings
from backendai.manager.status import ManagerStatusService
from backendai.manager.streams import StreamService
from backendai.manager.sweeper import Sweeper
from backendai.manager.tasks import BackgroundTasks
from backendai.manager.templates import TemplateService
from backendai.manager.transitions import Transitions
from backendai.storage.fitness import check_before_use
from backendai.supervision.periodic import periodic

log = structlog.get_logger(__name__)

#: The lease for everything that one process of an installation does for all.
LEASE = "manager"
_FLUSH_INTERVAL = timedelta(seconds=3)
_UNPRINTABLE = re.compile("[^ -~]")
#: Characters of the process's name that PostgreSQL has room for beside our suffix.
_NAME_LENGTH = 48
#: Seconds before the loops start anew after the database was lost.
_RETRY_AFTER = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """The services of one process, and the loops they need. Made by :func:`open_manager`."""

    settings: ManagerSettings
    database: Database
    accounts: AccountService
    sessions: SessionService
    execution: ExecutionService
    streams: StreamService
    events: EventService
    status: ManagerStatusService
    rate: RateLimiter
    health: HealthService
    images: ImageService
    live_stats: LiveStats
    directory: DirectoryService
    enrollment: Enrollment
    templates: TemplateService
    dotfiles: DotfileService
    # -- what runs
    board: NoticeBoard
    reconciler: Reconciler
    scheduler: Scheduler
    fleet: Fleet
    presence: Presence
    sweeper: Sweeper
    janitor: Janitor
    tasks: BackgroundTasks
    explain: ExplainService
    chronicle: ChronicleService
    callbacks: CallbackSender
    #: None leaves agents unheard: tests that stand in for them.
    listener: FactListener | None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all loops until cancelled; ``started`` once notices are heard and the lease was tried for.

        When the database, and with it the notices, is lost, all loops end and start anew until it is back.
        Any other error travels up: it is a bug.
        """
        told = False

        def tell() -> None:
            nonlocal told
            if not told:
                told = True
                task_status.started()

        while True:
            try:
                await self._run_once(tell)
            except* DatabaseUnavailable as errors:
                log.error("manager.loops-ended", why=[str(error) for error in errors.exceptions])
            await trio.sleep(_RETRY_AFTER)

    async def _run_once(self, running: Callable[[], None]) -> None:
        lease = Lease(self.database, LEASE, self.settings.lease_ttl)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.board.run, name="notices")
            await nursery.start(self.status.run, name="status")
            await nursery.start(self.reconciler.run, name="reconciler")
            await nursery.start(self.tasks.run, name="background tasks")
            nursery.start_soon(self._flush_counts, name="query counts")
            await nursery.start(lease.run, self._duties, name="lease")
            running()

    async def _duties(self, token: int) -> None:
        """What only the holder of the lease does."""
        settings = self.settings
        async with trio.open_nursery() as nursery:
            await nursery.start(self.presence.run, self.board.sessions, name="presence")
            await nursery.start(self.fleet.run, self.board.keys_changed, name="fleet")
            if self.listener is not None:
                await nursery.start(self.listener.run, name="fact listener")
            nursery.start_soon(
                self.scheduler.run,
                token,
                settings.scheduler_interval,
                self.board.work_waits,
                name="scheduler",
            )
            nursery.start_soon(self.sweeper.run, settings.sweep_interval, name="sweeper")
            nursery.start_soon(self.janitor.run, name="janitor")
            nursery.start_soon(self.callbacks.run, name="callbacks")

    async def _flush_counts(self) -> None:
        async def flush() -> None:
            await self.accounts.flush_queries()
            self.streams.note_uses()
            await self.execution.flush_queries()

        await periodic(_FLUSH_INTERVAL, flush, name="query counts")


def _application(process_id: str) -> str:
    """The name of this life of the process: one that starts again is not the same holder of a lease.

    PostgreSQL keeps printable ASCII only, and the lease is looked up by the name it kept.
    """
    return f"{_UNPRINTABLE.sub('?', process_id)[:_NAME_LENGTH]}#{secrets.token_hex(4)}"


@asynccontextmanager
async def open_manager(
    settings: ManagerSettings, *, agents: AgentCaller | None = None, listen: bool = True
) -> AsyncIterator[Manager]:
    """Open the manager of this process; :meth:`Manager.run` has to run while it is used.

    Needs the asyncio loop and a migrated database. ``agents`` and ``listen=False`` replace the ZeroMQ links,
    for tests. Raises :class:`DatabaseUnavailable` when the database cannot be reached and
    :class:`DatabaseUnfit` when it is not one to work with; Redis may be missing.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(
                settings.database_url.reveal(),
                max_size=settings.database_pool,
                application=_application(settings.process_id),
            )
        )
        await check_before_use(database)
        redis_url = settings.redis_url.reveal()
        kernel_stats, agent_presence, session_ids, rates = [
            await stack.enter_async_context(open_redis(redis_url, number)) for number in (1, 2, 3, 4)
        ]
        forget_calls: Callable[[AgentAddress], None] | None = None
        if agents is None:
            agents = links = await stack.enter_async_context(open_agent_links(settings.keys))
            forget_calls = links.forget
        call_timeout = settings.call_timeout.total_seconds()
        deadlines = Deadlines(settings.pending_timeout, settings.start_timeout, settings.terminate_timeout)

        accounts = AccountService(database)
        board = NoticeBoard(database, accounts, agent_restarted=forget_calls)
        images = ImageService(database)
        transitions = Transitions(database, deadlines)
        events = EventService(database, board, StreamCursors(rates), settings.event_retention)
        tasks = BackgroundTasks(database, board)
        callbacks = CallbackSender(database, settings.callback_networks, board.callback_waits)
        logs = LogArchive(
            database,
            agents,
            settings.log_retention,
            limit=settings.log_limit,
            replay_limit=settings.replay_limit,
        )
        reconciler = Reconciler(transitions, agents, logs, call_timeout)
        heard = HeardStats()
        live_stats = LiveStats(heard, kernel_stats, agent_presence)
        presence = Presence(heard, kernel_stats, agent_presence, session_ids)
        fleet = Fleet(
            database,
            reconciler,
            presence,
            encrypted=settings.keys is not None,
            heartbeat_interval=settings.heartbeat_interval,
            lost_after=settings.agent_lost_after,
        )
        sessions = SessionService(
            database,
            SessionCreation(database, images, deadlines, settings.callback_networks),
            transitions,
            reconciler,
            agents,
            board,
            live_stats,
            call_timeout,
        )
        execution = ExecutionService(database, sessions, agents, logs, call_timeout)
        rate = RateLimiter(rates)
        listener = FactListener(fleet, settings.facts_endpoint, settings.keys, fleet.allowed_keys)
        yield Manager(
            settings=settings,
            database=database,
            accounts=accounts,
            sessions=sessions,
            execution=execution,
            streams=StreamService(
                sessions,
                agents,
                execution.note_use,
                call_timeout=call_timeout,
                per_session=settings.streams_per_session,
                total=settings.streams,
            ),
            events=events,
            status=ManagerStatusService(database, reconciler, settings, board.status_changed),
            rate=rate,
            health=HealthService(database, rates, rate, board),
            images=images,
            live_stats=live_stats,
            directory=DirectoryService(database, live_stats),
            enrollment=Enrollment(database),
            templates=TemplateService(database),
            dotfiles=DotfileService(database),
            board=board,
            reconciler=reconciler,
            scheduler=Scheduler(database, reconciler, lease_name=LEASE, start_timeout=settings.start_timeout),
            fleet=fleet,
            presence=presence,
            sweeper=Sweeper(database, reconciler, fleet, reconcile_for=settings.agent_reconcile_for),
            tasks=tasks,
            explain=ExplainService(database, sessions),
            chronicle=ChronicleService(database, sessions),
            callbacks=callbacks,
            janitor=Janitor(
                [
                    logs.prune,
                    events.prune,
                    tasks.prune,
                    tasks.fail_orphans,
                    sessions.forget_requests,
                    callbacks.prune,
                ]
            ),
            listener=listener if listen else None,
        )
