"""A real agent process with real kernels, driven over real sockets by the manager's own ends of the link."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
import trio
import trio.testing

from backendai.agent.images import OWN_PYTHON
from backendai.bridges.zmq import AllowedKeys, new_curve_keys
from backendai.core.execution import RunMode, RunReply, RunRequest, RunStatus
from backendai.core.kernel import KernelLimits, KernelSpec
from backendai.manager.link import AgentAddress, AgentLinks, open_agent_links
from backendai.manager.listener import FactListener
from backendai.manager.settings import ManagerKeys
from backendai.wire.link import (
    AgentAnswer,
    AgentCall,
    AgentMessage,
    CreateKernel,
    Destroyed,
    DestroyKernel,
    Done,
    Fact,
    FactAck,
    Goodbye,
    Heartbeat,
    Hello,
    HelloAccepted,
    InterruptKernel,
    KernelEvent,
    KernelFailed,
    KernelStarted,
    KernelTerminated,
    Logs,
    ManagerMessage,
    ReadLogs,
    Refused,
    RestartKernel,
    RunAnswered,
    RunCode,
)

SCRIPT = Path(__file__).parent / "agent_process.py"
AGENT_PUBLIC, AGENT_SECRET = new_curve_keys()
MANAGER_PUBLIC, MANAGER_SECRET = new_curve_keys()
KEYS = ManagerKeys(public_key=MANAGER_PUBLIC, secret_key=MANAGER_SECRET)


class Manager:
    """Accepts everything, remembers everything, and can wait for it."""

    def __init__(self, links: AgentLinks, agents: frozenset[str]) -> None:
        self.links = links
        self.agents = agents
        self.hellos: list[Hello] = []
        self.events: list[KernelEvent] = []
        self.heartbeats: list[Heartbeat] = []
        self.goodbyes: list[Goodbye] = []
        self._heard = trio.Event()
        self._seen: set[tuple[str, int]] = set()

    async def __call__(self, sender_key: str, message: AgentMessage) -> ManagerMessage | None:
        assert sender_key in self.agents
        answer: ManagerMessage | None = None
        match message:
            case Hello():
                self.hellos.append(message)
                answer = HelloAccepted(boot_id=message.boot_id)
            case Heartbeat():
                self.heartbeats.append(message)
            case Goodbye():
                self.goodbyes.append(message)
            case Fact():
                if (message.boot_id, message.seq) not in self._seen:
                    self._seen.add((message.boot_id, message.seq))
                    self.events.append(message.event)
                answer = FactAck(boot_id=message.boot_id, seq=message.seq)
        self._heard.set()
        self._heard = trio.Event()
        return answer

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(30):
            while not condition():
                await self._heard.wait()

    async def event(self, kind: type, kernel_id: UUID, *, count: int = 1) -> KernelEvent:
        def found() -> list[KernelEvent]:
            return [e for e in self.events if isinstance(e, kind) and e.kernel_id == kernel_id]

        def failed() -> list[KernelEvent]:
            return [e for e in self.events if isinstance(e, KernelFailed) and e.kernel_id == kernel_id]

        await self.until(lambda: len(found()) >= count or (kind is not KernelFailed and failed()))
        assert kind is KernelFailed or not failed(), failed()
        return found()[count - 1]

    async def call(self, message: AgentCall) -> AgentAnswer:
        hello = self.hellos[-1]
        return await self.links.call(AgentAddress(hello.address, hello.public_key), message, timeout=20)

    async def create(self, **options: object) -> UUID:
        kernel_id = uuid4()
        spec = KernelSpec(
            kernel_id=kernel_id,
            session_id=kernel_id,
            session_name="s",
            image=OWN_PYTHON,
            slots={"cpu": "1", "mem": str(1 << 30)},
            **options,
        )
        assert await self.call(CreateKernel(spec=spec)) == Done()
        return kernel_id

    async def read(self, kernel_id: UUID, request: RunRequest) -> RunReply:
        answer = await self.call(RunCode(kernel_id=kernel_id, request=request))
        assert isinstance(answer, RunAnswered), answer
        return answer.reply

    async def run(self, kernel_id: UUID, code: str) -> str:
        reply = await self.read(kernel_id, RunRequest(run_id=uuid4().hex, mode=RunMode.QUERY, code=code))
        return await self.finish(kernel_id, reply)

    async def finish(self, kernel_id: UUID, reply: RunReply) -> str:
        text = "".join(item.data for item in reply.items)
        while reply.status is not RunStatus.FINISHED:
            reply = await self.read(
                kernel_id,
                RunRequest(run_id=reply.run_id, mode=RunMode.CONTINUE, after=reply.next_index, wait=10),
            )
            text += "".join(item.data for item in reply.items)
        return text


@asynccontextmanager
async def open_manager(*more: str) -> AsyncIterator[tuple[Manager, str]]:
    """``more`` are public keys of further agents."""
    async with open_agent_links(KEYS) as links, trio.open_nursery() as nursery:
        agents = frozenset({AGENT_PUBLIC, *more})
        manager = Manager(links, agents)
        listener = FactListener(manager, "tcp://127.0.0.1:*", KEYS, AllowedKeys(agents))
        endpoint = await nursery.start(listener.run)
        yield manager, endpoint
        nursery.cancel_scope.cancel()


def start_agent(directory: Path, endpoint: str, **options: object) -> subprocess.Popen[bytes]:
    settings = {
        "agent_id": "i-test",
        "directory": str(directory),
        "manager_endpoint": endpoint,
        "bind": "tcp://127.0.0.1:*",
        "keys": [AGENT_PUBLIC, AGENT_SECRET.reveal(), MANAGER_PUBLIC],
        "keep_kernels": False,
        "warm_pool": 0,
        "cpu": 4,
        "memory": 8 << 30,
        **options,
    }
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(settings)], env={**os.environ, "PYTHONPATH": root}
    )


@asynccontextmanager
async def open_agent(
    manager: Manager, directory: Path, endpoint: str, **options: object
) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = start_agent(directory, endpoint, **options)
    try:
        boots = len(manager.hellos)
        await manager.until(lambda: len(manager.hellos) > boots)
        yield process
        process.terminate()
        with trio.fail_after(10):
            assert await wait(process) == 0
    finally:
        process.kill()
        process.wait()


async def wait(process: subprocess.Popen[bytes]) -> int:
    return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)


def kernel_processes(directory: Path) -> list[psutil.Process]:
    """Every process that works in the agent's directory or descends from one that does."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(directory)):
                found += [process, *process.children(recursive=True)]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


async def nothing_left(directory: Path) -> None:
    with trio.fail_after(10):
        while kernel_processes(directory) or os.listdir(directory / "kernels"):
            await trio.sleep(0.05)


async def test_create_run_destroy(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        hello = manager.hellos[0]
        assert hello.slots == {"cpu": "4", "mem": str(8 << 30)}
        assert OWN_PYTHON in {image.canonical for image in hello.images}
        kernel_id = await manager.create(environ={"GREETING": "hi"})
        started = await manager.event(KernelStarted, kernel_id)
        assert isinstance(started, KernelStarted)
        assert not started.facts.warm
        assert started.facts.timings["total"] > 0
        assert started.facts.isolation
        assert await manager.run(kernel_id, "1+1") == "2\n"
        assert (await manager.run(kernel_id, "import os; print(os.environ['GREETING'])")) == "hi\n"
        answer = await manager.call(ReadLogs(kernel_id=kernel_id))
        assert isinstance(answer, Logs)

        # Repeating a create is harmless, more than there is does not fit, strangers are named.
        assert len([e for e in manager.events if isinstance(e, KernelStarted)]) == 1
        big = KernelSpec(
            kernel_id=uuid4(), session_id=uuid4(), session_name="", image=OWN_PYTHON, slots={"cpu": "9"}
        )
        answer = await manager.call(CreateKernel(spec=big))
        assert isinstance(answer, Refused)
        assert answer.code == "no-capacity"
        answer = await manager.call(InterruptKernel(kernel_id=uuid4()))
        assert isinstance(answer, Refused)
        assert answer.code == "no-such-kernel"

        await manager.until(
            lambda: any(
                kernel_id in beat.kernels and beat.kernels[kernel_id].mem > 0 for beat in manager.heartbeats
            )
        )

        # A new process on the same files.
        await manager.run(kernel_id, "x = 1; open('kept', 'w').write('kept')")
        assert await manager.call(RestartKernel(kernel_id=kernel_id)) == Done()
        await manager.event(KernelStarted, kernel_id, count=2)
        assert await manager.run(kernel_id, "print('x' in globals(), open('kept').read())") == "False kept\n"

        answer = await manager.call(DestroyKernel(kernel_id=kernel_id, reason="user-requested"))
        assert isinstance(answer, Destroyed)
        assert answer.last_stat is not None
        ended = await manager.event(KernelTerminated, kernel_id)
        assert isinstance(ended, KernelTerminated)
        assert ended.reason == "user-requested"
        await nothing_left(tmp_path)
    await manager.until(lambda: [goodbye.reason for goodbye in manager.goodbyes] == ["shutdown"])


async def test_hostile_output_and_hanging_runners_cost_only_their_kernel(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        kernel_id = await manager.create()
        await manager.event(KernelStarted, kernel_id)
        await manager.run(kernel_id, "import os\nfor _ in range(200): os.write(1, b'\\xff' * 65536)")
        logs = await manager.call(ReadLogs(kernel_id=kernel_id, limit=10 << 20))
        assert isinstance(logs, Logs)
        assert logs.truncated
        assert (1 << 20) < len(logs.text.encode()) <= 10 << 20
        answer = await manager.call(
            RunCode(
                kernel_id=kernel_id,
                request=RunRequest(run_id="big", mode=RunMode.QUERY, code="#" * (17 << 20)),
            )
        )
        assert isinstance(answer, Refused)
        assert answer.code == "bad-request"
        assert await manager.run(kernel_id, "1") == "1\n"

        runner = next(p for p in kernel_processes(tmp_path) if p.cwd().endswith(str(kernel_id)))
        runner.suspend()
        await manager.call(DestroyKernel(kernel_id=kernel_id, reason="user-requested", forced=True))
        await manager.event(KernelTerminated, kernel_id)
        await nothing_left(tmp_path)


async def test_interrupt_passes_a_read_that_waits(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        kernel_id = await manager.create()
        await manager.event(KernelStarted, kernel_id)
        request = RunRequest(
            run_id="r", mode=RunMode.QUERY, code="print('on', flush=True)\nwhile True: pass", after=0
        )
        reply = await manager.read(kernel_id, request)
        patient = RunRequest(run_id="r", mode=RunMode.CONTINUE, after=reply.next_index, wait=50)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.read, kernel_id, patient)
                await trio.testing.wait_all_tasks_blocked()  # the read is under way
                assert await manager.call(InterruptKernel(kernel_id=kernel_id)) == Done()


async def test_a_run_outlives_its_agent(tmp_path: Path) -> None:
    """kill -9 during a run; the next agent finds the kernel at work and the output complete."""
    async with open_manager() as (manager, endpoint):
        process = start_agent(tmp_path, endpoint)
        try:
            await manager.until(lambda: manager.hellos)
            kernel_id = await manager.create()
            idle_id = await manager.create()
            await manager.event(KernelStarted, kernel_id)
            await manager.event(KernelStarted, idle_id)
            code = "import time\nfor n in range(30):\n    print(n, flush=True)\n    time.sleep(0.1)"
            reply = await manager.read(
                kernel_id, RunRequest(run_id="long", mode=RunMode.QUERY, code=code, wait=0.5)
            )
            assert reply.status is RunStatus.CONTINUED
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        # One that dies while there is no agent is reported by the next.
        runner = next(p for p in kernel_processes(tmp_path) if p.cwd().endswith(str(idle_id)))
        runner.kill()
        runner.wait(5)
        async with open_agent(manager, tmp_path, endpoint):
            hello = manager.hellos[-1]
            assert hello.boot_id != manager.hellos[0].boot_id
            assert [(facts.kernel_id, facts.phase) for facts in hello.kernels] == [(kernel_id, "running")]
            lost = await manager.event(KernelTerminated, idle_id)
            assert isinstance(lost, KernelTerminated)
            assert lost.reason == "runner-lost"
            rest = await manager.finish(
                kernel_id,
                await manager.read(
                    kernel_id,
                    RunRequest(run_id="long", mode=RunMode.CONTINUE, after=reply.next_index),
                ),
            )
            seen = "".join(item.data for item in reply.items) + rest
            assert seen.split() == [str(number) for number in range(30)]
            assert await manager.run(kernel_id, "n") == "29\n"
            await manager.call(DestroyKernel(kernel_id=kernel_id, reason="done", forced=True))
            await nothing_left(tmp_path)


async def test_planned_restart_keeps_kernels_and_shutdown_ends_them(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint):
        async with open_agent(manager, tmp_path, endpoint, keep_kernels=True, warm_pool=1):
            await manager.until(lambda: warm_ready(tmp_path))
            kernel_id = await manager.create(limits=KernelLimits(memory=2 << 30), environ={"A": "ü\"'\n"})
            started = await manager.event(KernelStarted, kernel_id)
            assert isinstance(started, KernelStarted)
            assert started.facts.warm
            assert await manager.run(kernel_id, "import os; os.environ['A']") == repr("ü\"'\n") + "\n"
            await manager.run(kernel_id, "x = 42")
        assert manager.goodbyes[-1].reason == "agent-restart"
        assert kernel_processes(tmp_path)
        async with open_agent(manager, tmp_path, endpoint, warm_pool=1):
            assert await manager.run(kernel_id, "x") == "42\n"
        await nothing_left(tmp_path)
        ended = await manager.event(KernelTerminated, kernel_id)
        assert isinstance(ended, KernelTerminated)
        assert ended.reason == "agent-shutdown"
    assert manager.goodbyes[-1].reason == "shutdown"


def warm_ready(directory: Path) -> bool:
    from backendai.runner.client import read_last_state

    states = [read_last_state(path) for path in (directory / "kernels").glob("warm-*")]
    return any(state is not None and state.phase == "running" for state in states)


async def test_the_second_agent_on_a_directory_is_refused(tmp_path: Path) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        second = start_agent(tmp_path, endpoint)
        try:
            with trio.fail_after(10):
                assert await wait(second) != 0
        finally:
            second.kill()
            second.wait()


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"])
async def test_a_kernel_that_ends_by_itself_is_reported(tmp_path: Path, code: str) -> None:
    async with open_manager() as (manager, endpoint), open_agent(manager, tmp_path, endpoint):
        kernel_id = await manager.create()
        await manager.event(KernelStarted, kernel_id)
        assert "exit" in await manager.run(kernel_id, "print('exit soon')")
        await manager.call(
            RunCode(kernel_id=kernel_id, request=RunRequest(run_id="end", mode=RunMode.QUERY, code=code))
        )
        ended = await manager.event(KernelTerminated, kernel_id)
        assert isinstance(ended, KernelTerminated)
        assert (ended.reason, ended.exit_code) in [("self-terminated", 3), ("killed", 139)]
        # Its last words can still be read for a while; a destroy removes all at once.
        reply = await manager.read(kernel_id, RunRequest(run_id="end", mode=RunMode.CONTINUE, after=0))
        assert reply.status is RunStatus.FINISHED
        await manager.call(DestroyKernel(kernel_id=kernel_id, reason="bye"))
        await nothing_left(tmp_path)
