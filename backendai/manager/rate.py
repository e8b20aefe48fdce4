"""How many requests a key pair may make: a rolling window, counted in Redis (contract 01 §7).

The same round trip remembers claims: texts that stand for a request which is to be taken once. A
request's date may be 15 minutes off either way, so that a claim outlives every date its signature could
be used with.
"""

from __future__ import annotations

import structlog
import trio

from backendai.bridges.redis import RedisBridge, RedisUnavailable, Script
from backendai.core.account import RateState

log = structlog.get_logger(__name__)

WINDOW = 900
#: Seconds for which a claim is remembered.
CLAIM_TTL = 1860

#: For each of the first ``ARGV[2]`` keys: forget what left the window, enter the new requests, count. Refused
#: requests count as well. The other keys are claims: tell how many milliseconds ago each was made first,
#: or -1.
_COUNT = Script(
    """
    local now = redis.call('TIME')
    local ms = now[1] * 1000 + math.floor(now[2] / 1000)
    local window = tonumber(ARGV[1])
    local accounts = tonumber(ARGV[2])
    local answers = {}
    for i = 1, accounts do
        local key = KEYS[i]
        redis.call('ZREMRANGEBYSCORE', key, '-inf', ms - window * 1000)
        local new = tonumber(ARGV[i + 3])
        local last = redis.call('INCRBY', '__request_id', new)
        for n = last - new + 1, last do
            redis.call('ZADD', key, ms, n)
        end
        answers[i] = redis.call('ZCARD', key)
        redis.call('EXPIRE', key, window)
    end
    for i = accounts + 1, #KEYS do
        local first = redis.call('SET', KEYS[i], ms, 'NX', 'GET', 'EX', tonumber(ARGV[3]))
        answers[i] = first and ms - tonumber(first) or -1
    end
    return answers
    """
)


class _Waiting:
    __slots__ = ("access_key", "claim", "count", "done", "first_seen")

    def __init__(self, access_key: str, claim: str | None) -> None:
        self.access_key = access_key
        self.claim = claim
        self.first_seen: float | None = None
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

    async def check(self, access_key: str, limit: int, *, claim: str | None = None) -> RateState:
        """Count one request, and tell how long ago ``claim`` was made before.

        Without Redis every request is allowed and every claim new, as if it were the first.
        """
        mine = _Waiting(access_key, claim)
        self._waiting.append(mine)
        if self._asking:
            await mine.done.wait()
        else:
            # Others wait for the answer too, so that it must come whatever happens to this request.
            with trio.CancelScope(shield=True):
                await self._ask()
        count = 1 if mine.count is None else mine.count
        return RateState(limit, max(0, limit - count), WINDOW, count <= limit, mine.first_seen)

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
        claiming = [each for each in batch if each.claim is not None]
        keys = [*by_key, *(f"claim:{each.claim}" for each in claiming)]
        try:
            answers = await self._redis.run(
                _COUNT, keys, [WINDOW, len(by_key), CLAIM_TTL, *(len(waiting) for waiting in by_key.values())]
            )
        except RedisUnavailable as error:
            if not self.degraded:
                log.warning("rate.degraded", error=str(error))
            self.degraded = True
            return
        if self.degraded:
            log.info("rate.healed")
        self.degraded = False
        for waiting, count in zip(by_key.values(), answers, strict=False):
            for behind, each in enumerate(reversed(waiting)):
                each.count = count - behind
        for each, age in zip(claiming, answers[len(by_key) :], strict=True):
            each.first_seen = None if age < 0 else age / 1000
