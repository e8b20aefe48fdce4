"""How many requests a key pair may make: a rolling window, counted in Redis (contract 01 §7).

The same round trip remembers claims: texts that stand for a request which is to be taken once. A
request's date may be 15 minutes off either way, so that a claim outlives every date its signature could
be used with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from backendai.bridges.redis import RedisBridge, RedisUnavailable, Script
from backendai.core.account import RateState
from backendai.supervision.batching import Batcher

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


@dataclass(frozen=True, slots=True)
class _Request:
    access_key: str
    claim: str | None


@dataclass(slots=True)
class _Told:
    """What Redis says of one request; ``count`` is of those in the window, this one included."""

    count: int = 1
    first_seen: float | None = None


class RateLimiter:
    """Requests that come while another's question is under way wait and then share one round trip."""

    def __init__(self, redis: RedisBridge) -> None:
        self._redis = redis
        self._tell: Batcher[_Request, _Told] = Batcher(self._count)
        #: Redis is out of reach: everything is allowed for now.
        self.degraded = False

    async def check(self, access_key: str, limit: int, *, claim: str | None = None) -> RateState:
        """Count one request, and tell how long ago ``claim`` was made before.

        Without Redis every request is allowed and every claim new, as if it were the first.
        """
        told = await self._tell(_Request(access_key, claim))
        remaining = max(0, limit - told.count)
        return RateState(limit, remaining, WINDOW, told.count <= limit, told.first_seen)

    async def _count(self, batch: Sequence[_Request]) -> list[_Told]:
        told = [_Told() for _ in batch]
        by_key: dict[str, list[_Told]] = {}
        claims: dict[str, _Told] = {}
        for each, answer in zip(batch, told, strict=True):
            by_key.setdefault(each.access_key, []).append(answer)
            if each.claim is not None and each.claim in claims:
                answer.first_seen = 0.0
            elif each.claim is not None:
                claims[each.claim] = answer
        answers = await self._ask(
            [*by_key, *(f"claim:{claim}" for claim in claims)],
            [WINDOW, len(by_key), CLAIM_TTL, *(len(same) for same in by_key.values())],
        )
        if answers is None:
            return told
        for same, count in zip(by_key.values(), answers, strict=False):
            for behind, answer in enumerate(reversed(same)):
                answer.count = count - behind
        for answer, age in zip(claims.values(), answers[len(by_key) :], strict=True):
            answer.first_seen = None if age < 0 else age / 1000
        return told

    async def _ask(self, keys: list[str], arguments: list[int]) -> list[int] | None:
        """None while Redis cannot answer."""
        try:
            # Asked twice, a claim would not be new any more, so that once begun it is asked to the end.
            with trio.CancelScope(shield=True):
                answers: list[int] = await self._redis.run(_COUNT, keys, arguments)
        except RedisUnavailable as error:
            if not self.degraded:
                log.warning("rate.degraded", error=str(error))
            self.degraded = True
            return None
        if self.degraded:
            log.info("rate.healed")
        self.degraded = False
        return answers
