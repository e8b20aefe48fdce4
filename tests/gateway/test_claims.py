"""Signatures are claimed in Redis, so that a replay is refused by every process."""

from __future__ import annotations

import trio

from backendai.bridges.redis import RedisBridge
from backendai.manager.rate import RateLimiter


async def test_claims_are_shared_and_counted_in_one_trip(asyncio_loop: None, redis: RedisBridge) -> None:
    one, other = RateLimiter(redis), RateLimiter(redis)
    first = await one.check("AKIA1", 10, claim="AKIA1:abc")
    assert (first.first_seen, first.remaining, first.allowed) == (None, 9, True)
    again = await other.check("AKIA1", 10, claim="AKIA1:abc")
    assert again.first_seen is not None
    assert 0 <= again.first_seen < 5
    assert again.remaining == 8
    assert (await other.check("AKIA1", 10, claim="AKIA1:def")).first_seen is None
    assert (await other.check("AKIA1", 10)).first_seen is None


async def test_of_concurrent_equals_one_is_first(asyncio_loop: None, redis: RedisBridge) -> None:
    limiter = RateLimiter(redis)
    new = 0

    async def claim() -> None:
        nonlocal new
        state = await limiter.check("AKIA1", 100, claim="AKIA1:same")
        new += state.first_seen is None

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(claim)
    assert new == 1
