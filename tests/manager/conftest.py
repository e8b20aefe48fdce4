"""A manager on real databases with scripted agents on the in-memory network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable
from backendai.core.account import Principal, Secret
from backendai.core.execution import RunReply, RunStatus
from backendai.core.kernel import ImageSpec, KernelFacts, KernelPhase, KernelSpec, KernelStat, ServicePort
from backendai.core.output import KernelOutput, RunOutput
from backendai.core.session import SessionWish
from backendai.manager.link import AgentAddress
from backendai.manager.memory_link import Faults, MemoryNetwork
from backendai.manager.open import Manager, open_manager
from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts
from backendai.supervision.service import open_service
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    AgentMessage,
    CompleteCode,
    Completions,
    CreateKernel,
    Destroyed,
    DestroyKernel,
    Done,
    Fact,
    FactAck,
    ForgetOutput,
    Goodbye,
    Heartbeat,
    Hello,
    HelloAccepted,
    KernelCreating,
    KernelEvent,
    KernelFailed,
    KernelStarted,
    KernelTerminated,
    Logs,
    ManagerMessage,
    Output,
    ReadLogs,
    ReadOutput,
    Refused,
    RestartKernel,
    RunAnswered,
    RunCode,
    SayHello,
)

PYTHON = "local/python:3.11"


@dataclass
class FakeAgent:
    """An agent that starts kernels at once, and repeats its facts until they are acknowledged, as real ones
    do.
    """

    agent_id: str
    slots: dict[str, str] = field(default_factory=lambda: {"cpu": "8", "mem": str(16 << 30)})
    scaling_group: str = "default"
    #: ``run``, ``begin``, ``fail``, ``refuse`` or ``ignore`` what it is asked to start.
    mood: str = "run"
    kernels: dict[UUID, KernelSpec] = field(default_factory=dict)
    starting: set[UUID] = field(default_factory=set)
    beats: int = 0
    #: What kernels exit with when they are destroyed, and what any has printed.
    exit_code: int | None = None
    busy: bool = False
    #: Whether kernels that end by themselves can still be read, and those that now can.
    linger: bool = False
    lingering: set[UUID] = field(default_factory=set)
    #: What of ended kernels nobody has fetched, and what their runs had printed.
    outputs: set[UUID] = field(default_factory=set)
    runs: tuple[RunOutput, ...] | None = ()
    logs: Logs = field(default_factory=lambda: Logs(text="said so\n"))
    calls: list[AgentCall] = field(default_factory=list)
    boot_id: str = field(default_factory=lambda: uuid4().hex)
    accepted: trio.Event = field(default_factory=trio.Event)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.address = AgentAddress(f"tcp://{self.agent_id}:6001")
        self._seq = 0
        self.unacknowledged: dict[int, Fact] = {}
        self.send: Callable[[AgentMessage], None] = lambda _message: None

    # -- the agent's own life

    async def run(self, network: MemoryNetwork) -> None:
        self.send = network.join(self.address, self.call, self.answer)
        self.say_hello()
        while True:
            await trio.sleep(0.1)
            if self.stopped:
                return
            self.beats += 1
            if not self.accepted.is_set():
                self.say_hello()
            stats = {id_: KernelStat(cpu_used=5.0, mem=1 << 20, busy=self.busy) for id_ in self.kernels}
            self.send(
                Heartbeat(
                    agent_id=self.agent_id,
                    boot_id=self.boot_id,
                    seq=self.beats,
                    kernels=stats,
                    starting=tuple(self.starting),
                    ended=tuple(self.outputs),
                )
            )
            for fact in list(self.unacknowledged.values()):
                self.send(fact)

    def say_hello(self) -> None:
        facts = tuple(self.facts(spec) for spec in self.kernels.values())
        images = (ImageSpec(canonical=PYTHON, kernelspec="python3", language="python", argv=("python",)),)
        self.send(
            Hello(
                agent_id=self.agent_id,
                boot_id=self.boot_id,
                version="1",
                address=self.address.address,
                cluster_endpoint=f"tcp://{self.agent_id}:6002",
                isolation={"cluster-network": "bridge"},
                slots=self.slots,
                scaling_group=self.scaling_group,
                images=images,
                kernels=facts,
            )
        )

    def reboot(self) -> None:
        self.boot_id = uuid4().hex
        self._seq = 0
        self.unacknowledged.clear()
        self.accepted = trio.Event()

    def tell(self, event: KernelEvent) -> None:
        self._seq += 1
        fact = Fact(agent_id=self.agent_id, boot_id=self.boot_id, seq=self._seq, event=event)
        self.unacknowledged[self._seq] = fact
        self.send(fact)

    def end(self, kernel_id: UUID, reason: str, exit_code: int | None = None) -> None:
        if self.kernels.pop(kernel_id, None) is not None:
            if self.linger:
                self.lingering.add(kernel_id)
                self.outputs.add(kernel_id)
            stat = KernelStat(cpu_used=7.0)
            self.tell(
                KernelTerminated(kernel_id=kernel_id, reason=reason, exit_code=exit_code, last_stat=stat)
            )

    def goodbye(self, reason: str) -> None:
        self.stopped = True
        self.send(Goodbye(agent_id=self.agent_id, boot_id=self.boot_id, reason=reason))

    @staticmethod
    def facts(spec: KernelSpec) -> KernelFacts:
        return KernelFacts(
            kernel_id=spec.kernel_id,
            session_id=spec.session_id,
            phase=KernelPhase.RUNNING,
            image=spec.image,
            slots=spec.slots,
            isolation={"memory": "cgroup1"},
            timings={"claim": 1.5},
            service_ports=(ServicePort(name="ttyd", protocol="http", ports=(7681,)),),
        )

    # -- what the manager says

    async def answer(self, message: ManagerMessage) -> None:
        match message:
            case HelloAccepted() if message.boot_id == self.boot_id:
                self.accepted.set()
            case FactAck() if message.boot_id == self.boot_id:
                self.unacknowledged.pop(message.seq, None)
            case SayHello():
                self.say_hello()

    async def call(self, message: AgentCall) -> AgentAnswer:
        self.calls.append(message)
        match message:
            case CreateKernel():
                return self._create(message.spec)
            case DestroyKernel():
                self.end(message.kernel_id, message.reason, self.exit_code)
                return Destroyed(last_stat=KernelStat(cpu_used=6.0, mem_max=1 << 20))
            case RestartKernel() if message.kernel_id in self.kernels:
                spec = self.kernels[message.kernel_id]
                self.tell(KernelStarted(kernel_id=spec.kernel_id, facts=self.facts(spec)))
                return Done()
            case RunCode() if message.request.run_id == "unknown":
                return Refused(code="no-such-run")
            case RunCode() if message.kernel_id in self.kernels.keys() | self.lingering:
                reply = RunReply(run_id=message.request.run_id, status=RunStatus.FINISHED, exit_code=0)
                return RunAnswered(reply=reply)
            case ReadOutput() if message.kernel_id in self.outputs:
                logs = self.logs
                return Output(
                    output=KernelOutput(log=logs.text, log_truncated=logs.truncated, runs=self.runs)
                )
            case ForgetOutput():
                self.outputs.discard(message.kernel_id)
                return Done()
            case CompleteCode():
                return Completions(matches=("print",))
            case ReadLogs() if message.kernel_id in self.kernels.keys() | self.lingering:
                return self.logs
        return Refused(code="no-such-kernel")

    def _create(self, spec: KernelSpec) -> AgentAnswer:
        match self.mood:
            case "refuse":
                return Refused(code="no-capacity", msg="full")
            case "fail":
                self.tell(KernelFailed(kernel_id=spec.kernel_id, code="no-sandbox", detail="bwrap: no"))
            case "begin":
                self.kernels[spec.kernel_id] = spec
                self.starting.add(spec.kernel_id)
                self.tell(KernelCreating(kernel_id=spec.kernel_id))
            case "run":
                if spec.kernel_id not in self.kernels:
                    self.kernels[spec.kernel_id] = spec
                    self.tell(KernelCreating(kernel_id=spec.kernel_id))
                    self.tell(KernelStarted(kernel_id=spec.kernel_id, facts=self.facts(spec)))
        return Done()


@dataclass
class House:
    """A manager that runs, with a network to put agents on."""

    manager: Manager
    network: MemoryNetwork
    nursery: trio.Nursery
    user: Principal
    admin: Principal

    async def add_agent(self, agent: FakeAgent) -> FakeAgent:
        self.nursery.start_soon(agent.run, self.network)
        with trio.fail_after(10):
            await agent.accepted.wait()
        return agent

    async def create(self, name: str, **more: object) -> str:
        """Create a session as the user; answers its status."""
        return (await self.manager.sessions.create(self.user, self.user, wish(name, **more))).status

    async def status(self, name: str) -> str:
        return (await self.manager.sessions.resolve(self.user, name, stale=True)).status


def wish(name: str, **more: object) -> SessionWish:
    return SessionWish(**{"name": name, "image": "python", "max_wait": 10, **more})  # type: ignore[arg-type]


async def until(check: Callable[[], object], *, seconds: float = 10) -> None:
    """Poll an asynchronous or plain condition until it holds."""
    with trio.fail_after(seconds):
        while True:
            held = check()
            if hasattr(held, "__await__"):
                held = await held
            if held:
                return
            await trio.sleep(0.01)


@pytest.fixture
def settings(database_url: str, redis_url: str) -> ManagerSettings:
    return ManagerSettings(
        database_url=Secret(database_url),
        redis_url=Secret(redis_url),
        process_id="test",
        heartbeat_interval=timedelta(seconds=0.1),
        agent_lost_after=timedelta(seconds=1),
        agent_reconcile_for=timedelta(seconds=2.5),
        scheduler_interval=timedelta(seconds=0.5),
        sweep_interval=timedelta(seconds=0.2),
        start_timeout=timedelta(seconds=5),
        terminate_timeout=timedelta(seconds=2),
        call_timeout=timedelta(seconds=1),
        lease_ttl=timedelta(seconds=3),
    )


@asynccontextmanager
async def open_house(
    settings: ManagerSettings, accounts: FirstAccounts, faults: Faults | None = None
) -> AsyncIterator[House]:
    holder: list[Manager] = []

    async def hear(key: str, message: AgentMessage) -> ManagerMessage | None:
        try:
            return await holder[0].fleet(key, message) if holder else None
        except DatabaseUnavailable:
            return None  # as by the listener: who gets no answer says it again

    async with trio.open_nursery() as nursery:
        network = MemoryNetwork(nursery, hear, faults=faults)
        async with open_manager(settings, agents=network, listen=False) as manager:
            holder.append(manager)
            async with open_service(manager.run, name="manager"):
                user = await manager.accounts.credential(accounts.access_key)
                admin = await manager.accounts.credential(accounts.admin_access_key)
                assert user is not None
                assert admin is not None
                yield House(manager, network, nursery, user.principal, admin.principal)
                holder.clear()
                nursery.cancel_scope.cancel()


@pytest.fixture
async def house(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts, database: Database
) -> AsyncIterator[House]:
    async with open_house(settings, accounts) as house:
        yield house


@pytest.fixture
async def agent(house: House) -> FakeAgent:
    return await house.add_agent(FakeAgent("i-one"))
