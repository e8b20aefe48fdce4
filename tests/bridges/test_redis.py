from __future__ import annotations

import pytest
import trio

from backendai.bridges.redis import RedisBridge, RedisError, RedisUnavailable, Script, open_redis


async def test_answers_of_every_kind(redis: RedisBridge) -> None:
    assert await redis.call("SET", "name", "w\r\nert") == b"OK"
    assert await redis.call("GET", "name") == b"w\r\nert"
    assert await redis.call("GET", "none") is None
    assert await redis.pipeline([["INCR", "n"], ["INCRBY", "n", 4], ["MGET", "n", "none"]]) == [
        1,
        5,
        [b"5", None],
    ]


async def test_a_refused_command_raises_and_does_no_harm(redis: RedisBridge) -> None:
    with pytest.raises(RedisError):
        await redis.pipeline([["SET", "a", "x"], ["INCR", "a"], ["GET", "a"]])
    assert await redis.call("GET", "a") == b"x"


async def test_a_script_is_sent_once(redis: RedisBridge) -> None:
    script = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert await redis.run(script, ["n"], [2]) == 2
    before = redis.round_trips
    assert await redis.run(script, ["n"], [2]) == 4
    assert redis.round_trips == before + 1


async def test_it_heals_after_the_connection_is_cut(redis: RedisBridge, redis_url: str) -> None:
    number = await redis.call("CLIENT", "ID")
    async with open_redis(redis_url, 0) as other:
        await other.call("CLIENT", "KILL", "ID", number)
    with pytest.raises(RedisUnavailable):
        await redis.call("PING")
    assert await redis.call("PING") == b"PONG"


async def test_no_server_is_said_so_quickly(asyncio_loop: None) -> None:
    async with open_redis("redis://127.0.0.1:1", 0) as bridge:
        with trio.fail_after(1):
            for _ in range(100):
                with pytest.raises(RedisUnavailable):
                    await bridge.call("PING")
