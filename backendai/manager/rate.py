"""How many requests a key pair may make: a rolling window, counted in Redis (contract 01 §7)."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import trio

from backendai.bridges.redis import RedisBridge, RedisUnavailable, Script

log = structlog.get_logger(__name__)

WINDOW = 900

#: For each key: forget what left the window, enter the new requests, count. Refused requests count as well.
_COUNT = Script(
    """
    local now = redis.call('TIME')
    local ms = now[1] * 1000 + math.floor(now[2] / 1000)
    local window = tonumber(ARGV[1])
    local counts = {}
    for i, key in ipairs(KEYS) do
        redis.call('ZREMRANGEBYSCORE', key, '-inf', ms - window * 1000)
        local new = tonumber(ARGV[i + 1])
        local last = redis.call('INCRBY', '__request_id', new)
        for n = last - new + 1, last do
            redis.call('ZADD', key, ms, n)
        end
        counts[i] = redis.call('ZCARD', key)
        redis.call('EXPIRE', key, window)
    end
    return counts
    """
)


@dataclass(frozen=True, slots=True)
class RateState:
    """``allowed`` is False for a request that is over the limit. ``window`` in seconds."""

    limit: int
    remaining: int
    window: int
    allowed: bool


class _Waiting:
    __slots__ = ("access_key", "count", "done")

    def __init__(self, access_key: str) -> None:
        self.access_key = access_key
        self.done = trio.Event()
        #: Requests in the window, this one included; None when Redis could not tell.
        self.count: int | None = None


class RateLimiter:
    """Requests that come while another's question is under way wait and then share one round trip."""

    def __init__(self, redis: RedisBridge) -> None:
        self._redis = redis
        self._waiting: list[_Waiting] = []
        self._asking = False
        #: Redis is out of reach: everything is allowed for now.
        self.degraded = False

    async def check(self, access_key: str, limit: int) -> RateState:
        """Count one request. Without Redis every request is allowed, as if it were the first."""
        mine = _Waiting(access_key)
        self._waiting.append(mine)
        if self._asking:
            await mine.done.wait()
        else:
            # Others wait for the answer too, so that it must come whatever happens to this request.
            with trio.CancelScope(shield=True):
                await self._ask()
        count = 1 if mine.count is None else mine.count
        return RateState(limit, max(0, limit - count), WINDOW, count <= limit)

    async def _ask(self) -> None:
        self._asking = True
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._count(batch)
                finally:
                    for each in batch:
                        each.done.set()
        finally:
            self._asking = False

    async def _count(self, batch: list[_Waiting]) -> None:
        by_key: dict[str, list[_Waiting]] = {}
        for each in batch:
            by_key.setdefault(each.access_key, []).append(each)
        try:
            counts = await self._redis.run(
                _COUNT, list(by_key), [WINDOW, *(len(waiting) for waiting in by_key.values())]
            )
        except RedisUnavailable as error:
            if not self.degraded:
                log.warning("rate.degraded", error=str(error))
            self.degraded = True
            return
        if self.degraded:
            log.info("rate.healed")
        self.degraded = False
        for waiting, count in zip(by_key.values(), counts, strict=True):
            for behind, each in enumerate(reversed(waiting)):
                each.count = count - behind
