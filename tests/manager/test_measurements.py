from __future__ import annotations

from uuid import uuid4

from backendai.bridges.redis import RedisBridge, open_redis
from backendai.core.kernel import KernelStat
from backendai.manager.measurements import Measurements, kernel_commands, node_command
from backendai.wire.link import Heartbeat, NodeStat


async def test_what_a_heartbeat_brought_is_read_back(redis: RedisBridge) -> None:
    kernel, stranger = uuid4(), uuid4()
    heartbeat = Heartbeat(
        agent_id="i-1",
        boot_id="b",
        seq=1,
        kernels={kernel: KernelStat(cpu_used=5, mem=7)},
        node=NodeStat(cpu_util=3.5, mem_used=1, mem_total=2),
    )
    await redis.pipeline([*kernel_commands(heartbeat), node_command(heartbeat)])
    measurements = Measurements(redis, redis)
    before = redis.round_trips
    assert await measurements.of_kernels([str(stranger), str(kernel)]) == {
        str(kernel): KernelStat(cpu_used=5, mem=7)
    }
    assert redis.round_trips == before + 1
    assert await measurements.of_nodes(["i-1", "i-2"]) == {"i-1": heartbeat.node}
    assert await measurements.of_kernels([]) == {}


async def test_nothing_is_known_while_redis_is_down() -> None:
    async with open_redis("redis://127.0.0.1:1", 1) as down:
        assert await Measurements(down, down).of_kernels([str(uuid4())]) == {}
