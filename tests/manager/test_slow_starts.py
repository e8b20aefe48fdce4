"""A kernel that takes long to start, for example because of its bootstrap script."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from manager.conftest import FakeAgent, open_house, until

from backendai.manager.settings import ManagerSettings
from backendai.storage.seed import FirstAccounts
from backendai.wire.link import KernelStarted

#: More than a heartbeat has to be younger than the start to tell anything.
BEATS = 8


async def test_a_kernel_that_is_being_started_does_not_run(
    asyncio_loop: None, settings: ManagerSettings, accounts: FirstAccounts
) -> None:
    settings = replace(settings, start_timeout=timedelta(minutes=5))
    async with open_house(settings, accounts) as house:
        agent = await house.add_agent(FakeAgent("i-one", mood="begin"))
        await house.create("slow", enqueue_only=True)
        await until(lambda: agent.kernels)
        begun = agent.beats
        await until(lambda: agent.beats > begun + BEATS)
        await house.manager.fleet.compare()
        assert await house.status("slow") == "PREPARING"

        (spec,) = agent.kernels.values()
        agent.starting.clear()
        agent.tell(KernelStarted(kernel_id=spec.kernel_id, facts=agent.facts(spec)))

        async def runs() -> bool:
            return await house.status("slow") == "RUNNING"

        await until(runs)
