"""What the agent makes of calls and of what becomes of its kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio
import trio.testing

from backendai.agent.calls import CallServer
from backendai.agent.directory import AgentDirectory, DirectoryHeld, hold_directory
from backendai.agent.facts import FactOutbox
from backendai.agent.host import runner_spec
from backendai.agent.kernel import LINGER
from backendai.agent.kernels import Kernels
from backendai.agent.networks import SessionNetworks
from backendai.agent.pool import WarmPool
from backendai.agent.settings import AgentSettings
from backendai.agent.streams import StreamRelays
from backendai.bridges.zmq import SocketType, open_socket
from backendai.core.execution import CompletionRequest, RunMode, RunRequest
from backendai.core.kernel import ImageSpec, KernelLimits, KernelSpec
from backendai.wire.link import (
    AgentCall,
    CompleteCode,
    CreateKernel,
    Destroyed,
    Done,
    InterruptKernel,
    KernelEvent,
    KernelFailed,
    KernelStarted,
    KernelTerminated,
    Refused,
    RunCode,
    decode_answer,
    encode,
)
from backendai.wire.runner import RunnerExit

from .stand_ins import StandInHost

IMAGE = ImageSpec(
    canonical="local/python:test", kernelspec="python3", language="python", argv=("x",), env_snippet="{json}"
)


class Agent:
    def __init__(self, directory: AgentDirectory, host: StandInHost, *, warm: int) -> None:
        settings = AgentSettings(agent_id="i-a", directory=Path())
        self.host = host
        self.outbox = FactOutbox("i-a", "boot")
        self.pool = WarmPool(host, directory, [IMAGE], warm, partial(runner_spec, settings, warm=True))
        self.kernels = Kernels(
            host,
            directory,
            {IMAGE.canonical: IMAGE},
            {"cpu": Decimal(4), "mem": Decimal(1 << 30)},
            self.outbox,
            self.pool,
            partial(runner_spec, settings, warm=False),
            SessionNetworks(None),
        )

    @property
    def events(self) -> list[KernelEvent]:
        return [fact.event for fact in self.outbox.waiting()]

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@asynccontextmanager
async def open_agent(
    path: Path, host: StandInHost | None = None, *, warm: int = 0, settle: bool = True
) -> AsyncIterator[Agent]:
    with hold_directory(path, "i-a") as directory:
        agent = Agent(directory, host or StandInHost(), warm=warm)
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.kernels.run)
            await nursery.start(agent.pool.run)
            if settle:
                await trio.testing.wait_all_tasks_blocked(0.01)
            yield agent
            nursery.cancel_scope.cancel()


def wish(**options: object) -> KernelSpec:
    kernel_id = uuid4()
    options.setdefault("slots", {"cpu": "1", "mem": "1024"})
    return KernelSpec(
        kernel_id=kernel_id, session_id=kernel_id, session_name="s", image=IMAGE.canonical, **options
    )


async def settled() -> None:
    """Until everything waits; removal of directories happens in threads."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.02)


async def test_create_is_idempotent_also_after_the_end(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as agent:
        spec = wish()
        assert agent.kernels.create(spec) == Done()
        assert agent.kernels.create(spec) == Done()
        await settled()
        assert agent.kinds == ["KernelStarted"]
        assert len(agent.host.runners) == 1
        answer = await agent.kernels.destroy(spec.kernel_id, "user-requested", forced=True)
        assert isinstance(answer, Destroyed)
        assert answer.last_stat is not None
        assert answer.last_stat.mem == 7
        await settled()
        last = agent.events[-1]
        assert isinstance(last, KernelTerminated)
        assert last.reason == "user-requested"
        assert agent.kernels.facts() == ()
        assert not list((tmp_path / "kernels").iterdir())
        again = agent.kernels.create(spec)
        assert isinstance(again, Refused)
        assert again.code == "kernel-exited"


async def test_destroy_before_create_wins(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as agent:
        spec = wish()
        assert await agent.kernels.destroy(spec.kernel_id, "x", forced=False) == Destroyed()
        assert isinstance(agent.kernels.create(spec), Refused)


async def test_destroy_of_a_kernel_being_created_cancels_it(tmp_path: Path) -> None:
    async with open_agent(tmp_path, StandInHost(ready=False)) as agent:
        spec = wish()
        agent.kernels.create(spec)
        refusal = await agent.kernels.interrupt(spec.kernel_id)
        assert isinstance(refusal, Refused)
        assert refusal.code == "busy"
        await settled()
        await agent.kernels.destroy(spec.kernel_id, "changed-mind", forced=False)
        await settled()
        assert agent.kinds == ["KernelTerminated"]
        assert agent.host.runners[0].gone
        assert not list((tmp_path / "kernels").iterdir())


async def test_failed_starts_say_why(tmp_path: Path) -> None:
    async with open_agent(tmp_path, StandInHost(ready=False)) as agent:
        first = wish()
        agent.kernels.create(first)
        await settled()
        agent.host.runners[0].end(RunnerExit(reason="start-failed", detail="no such file"))
        await settled()
        agent.host.fail = True
        agent.kernels.create(wish())
        await settled()
        failures = [event for event in agent.events if isinstance(event, KernelFailed)]
        assert [(event.code, event.detail) for event in failures] == [
            ("start-failed", "no such file"),
            ("start-failed", "no"),
        ]
        assert not list((tmp_path / "kernels").iterdir())


async def test_capacity_counts_what_lives(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as agent:
        first = wish(slots={"cpu": "3"})
        assert agent.kernels.create(first) == Done()
        for slots in ({"cpu": "2"}, {"cuda.device": "1"}, {"cpu": "NaN"}, {"cpu": "-1"}, {"cpu": "much"}):
            refusal = agent.kernels.create(wish(slots=slots))
            assert isinstance(refusal, Refused)
            assert refusal.code == "no-capacity"
        await settled()
        agent.host.runners[0].end(RunnerExit(reason="self-terminated", exit_code=0))
        await settled()
        assert agent.kernels.create(wish(slots={"cpu": "4"})) == Done()
        unknown = KernelSpec(kernel_id=uuid4(), session_id=uuid4(), session_name="", image="nope")
        assert agent.kernels.create(unknown) == Refused(code="no-such-image", msg="nope")


async def test_a_kernel_that_ended_lingers_for_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LINGER > 1
    monkeypatch.setattr("backendai.agent.kernel.LINGER", 0.3)
    async with open_agent(tmp_path) as agent:
        spec = wish()
        agent.kernels.create(spec)
        await settled()
        agent.host.runners[0].end(RunnerExit(reason="killed", exit_code=139))
        await settled()
        assert [facts.exit_code for facts in agent.kernels.facts()] == [139]
        assert spec.kernel_id not in await agent.kernels.measure()
        with trio.fail_after(5):
            while agent.kernels.facts():
                await trio.sleep(0.01)
        assert agent.host.runners[0].gone
        answer = await agent.kernels.execute(spec.kernel_id, RunRequest(run_id="r", mode=RunMode.CONTINUE))
        assert isinstance(answer, Refused)
        assert answer.code == "no-such-kernel"


async def test_a_killed_runner_is_reported_lost(tmp_path: Path) -> None:
    async with open_agent(tmp_path) as agent:
        agent.kernels.create(wish())
        await settled()
        agent.host.runners[0].end(None)
        await settled()
        last = agent.events[-1]
        assert isinstance(last, KernelTerminated)
        assert last.reason == "runner-lost"


async def test_the_next_agent_takes_up_what_it_finds(tmp_path: Path) -> None:
    host = StandInHost()
    running, lost, early = wish(), wish(), wish()
    async with open_agent(tmp_path, host, warm=1) as agent:
        for spec in (running, lost, early):
            agent.kernels.create(spec)
            await settled()
        with trio.fail_after(5):
            while not any(runner.warm for runner in host.runners):
                await trio.sleep(0.01)
        await settled()
    assert all(runner.detached and not runner.gone for runner in host.runners)
    runner_of = {runner.kernel.kernel_id: runner for runner in host.runners}
    # The first one was given a warm kernel, whose directory does not tell whose it is.
    runner_of[lost.kernel_id].gone = True
    runner_of[early.kernel_id].ready = trio.Event()
    async with open_agent(tmp_path, host, warm=1) as agent:
        assert {facts.kernel_id for facts in agent.kernels.facts()} == {running.kernel_id, early.kernel_id}
        terminated = [event for event in agent.events if isinstance(event, KernelTerminated)]
        assert [(event.kernel_id, event.reason) for event in terminated] == [(lost.kernel_id, "runner-lost")]
        runner_of[early.kernel_id].ready.set()
        await settled()
        started = [event.kernel_id for event in agent.events if isinstance(event, KernelStarted)]
        assert started == [early.kernel_id]
        assert len([runner for runner in host.runners if runner.warm and not runner.gone]) == 1


async def test_warm_kernels_are_used_once_and_only_where_they_fit(tmp_path: Path) -> None:
    async with open_agent(tmp_path, warm=1) as agent:
        (warm,) = agent.host.runners
        for unfit in (
            wish(network=True),
            wish(bootstrap_script="x"),
            wish(cluster_hostname="sub1"),
            wish(limits=KernelLimits(open_files=5)),
        ):
            assert agent.pool.claim(unfit) is None
        fit = wish(limits=KernelLimits(memory=5), environ={"A": "B"})
        agent.kernels.create(fit)
        await settled()
        assert warm.kernel == fit
        assert [facts.warm for facts in agent.kernels.facts()] == [True]
        await agent.kernels.destroy(fit.kernel_id, "x", forced=True)
        with trio.fail_after(5):
            while not any(runner.warm and not runner.gone for runner in agent.host.runners):
                await trio.sleep(0.01)
        assert warm.gone
        assert len(agent.host.runners) == 2


async def test_a_warm_kernel_that_cannot_be_assigned_is_replaced_by_a_cold_one(tmp_path: Path) -> None:
    async with open_agent(tmp_path, warm=1) as agent:
        agent.host.runners[0].refuse_assign = True
        spec = wish()
        agent.kernels.create(spec)
        await settled()
        assert agent.kinds == ["KernelStarted"]
        assert [facts.warm for facts in agent.kernels.facts()] == [False]
        assert agent.host.runners[0].gone
        assert not any("warm" in path.name for path in (tmp_path / "kernels").iterdir())


async def test_the_pool_replaces_its_dead_and_waits_for_cold_starts(tmp_path: Path) -> None:
    async with open_agent(tmp_path, warm=1) as agent:
        with agent.pool.cold_start():
            agent.host.runners[0].end(RunnerExit(reason="killed"))
            await settled()
            assert len(agent.host.runners) == 1
        await settled()
        assert len(agent.host.runners) == 2
        await agent.pool.close()
        assert all(runner.gone for runner in agent.host.runners)
        assert not list((tmp_path / "kernels").iterdir())


async def test_end_all_ends_everything(tmp_path: Path) -> None:
    async with open_agent(tmp_path, StandInHost(ready=False)) as agent:
        agent.kernels.create(wish())
        await settled()
        agent.host.ready = True
        agent.kernels.create(wish())
        await settled()
        with trio.fail_after(5):
            await agent.kernels.end_all("agent-shutdown")
        assert all(runner.gone for runner in agent.host.runners)
        assert agent.kernels.facts() == ()


async def test_calls_reach_the_runner_in_order_and_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with (
        open_agent(tmp_path) as agent,
        open_socket(SocketType.ROUTER, bind="tcp://127.0.0.1:*") as server,
        open_socket(SocketType.DEALER, connect=server.endpoint) as client,
        trio.open_nursery() as nursery,
    ):
        streams = StreamRelays(server, agent.kernels)
        await nursery.start(CallServer(server, agent.kernels, streams).run)
        spec = wish()
        numbers: dict[bytes, UUID] = {}

        async def send(call: AgentCall) -> None:
            call_id = len(numbers).to_bytes(8, "big")
            numbers[call_id] = spec.kernel_id
            await client.send([call_id, encode(call)])

        await send(CreateKernel(spec=spec))
        await client.recv()
        await settled()
        for number in range(50):
            request = RunRequest(run_id=str(number), mode=RunMode.CONTINUE, wait=0.5)
            await send(RunCode(kernel_id=spec.kernel_id, request=request))
        await send(InterruptKernel(kernel_id=spec.kernel_id))
        with trio.fail_after(0.45):
            answer = await client.recv()
        assert decode_answer(answer[1]) == Done()
        assert agent.host.runners[0].begun == [*map(str, range(50)), "interrupt"]
        for _ in range(50):
            await client.recv()

        await send(CompleteCode(kernel_id=spec.kernel_id, request=CompletionRequest(code="")))
        assert decode_answer((await client.recv())[1]) == Refused(code="busy", msg="")
        await client.send([b"short", b"x"])  # dropped
        await client.send([b"8 bytes.", b"junk"])
        refusal = decode_answer((await client.recv())[1])
        assert isinstance(refusal, Refused)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("error_logs_expected")
async def test_a_fault_in_one_call_does_not_end_the_others(tmp_path: Path) -> None:
    async def broken(request: object) -> None:
        raise LookupError

    async with (
        open_agent(tmp_path) as agent,
        open_socket(SocketType.ROUTER, bind="tcp://127.0.0.1:*") as server,
        open_socket(SocketType.DEALER, connect=server.endpoint) as client,
        trio.open_nursery() as nursery,
    ):
        streams = StreamRelays(server, agent.kernels)
        await nursery.start(CallServer(server, agent.kernels, streams).run)
        spec = wish()
        agent.kernels.create(spec)
        await settled()
        agent.host.runners[0].complete = broken  # type: ignore[method-assign]
        call = CompleteCode(kernel_id=spec.kernel_id, request=CompletionRequest(code=""))
        for _ in range(2):
            await client.send([b"8 bytes.", encode(call)])
            answer = decode_answer((await client.recv())[1])
            assert isinstance(answer, Refused)
            assert answer.code == "failed"
        nursery.cancel_scope.cancel()


def test_directory_names_its_holder(tmp_path: Path) -> None:
    with (
        hold_directory(tmp_path, "i-first"),
        pytest.raises(DirectoryHeld, match="i-first"),
        hold_directory(tmp_path, "i-second"),
    ):
        pass
    with hold_directory(tmp_path, "i-second"):
        assert (tmp_path / "kernels").stat().st_mode & 0o777 == 0o700
