"""Is this process fit to serve, and if not, what is missing."""

from __future__ import annotations

import trio

from backendai.bridges.postgres import Database, DatabaseUnavailable
from backendai.bridges.redis import RedisBridge, RedisUnavailable
from backendai.manager.notices import NoticeBoard
from backendai.manager.rate import RateLimiter
from backendai.storage import agents

OK = "ok"
#: Without these there is nothing to serve; the others only make the service poorer.
ESSENTIAL = frozenset({"database", "loops"})
_TIMEOUT = 2.0


class HealthService:
    def __init__(self, database: Database, redis: RedisBridge, rate: RateLimiter, board: NoticeBoard) -> None:
        self._database = database
        self._redis = redis
        self._rate = rate
        self._board = board

    async def readiness(self) -> dict[str, str]:
        """Component to ``ok`` or to what is wrong with it. Ready when all of :data:`ESSENTIAL` are ok."""
        database, alive = await self._ask_database()
        return {
            "database": database,
            "redis": await self._ask_redis(),
            "agents": OK if alive else "no agent is alive",
            "loops": OK if self._board.listening else "not following what happens",
        }

    async def _ask_database(self) -> tuple[str, int]:
        try:
            with trio.fail_after(_TIMEOUT):
                return OK, await agents.count_alive(self._database)
        except trio.TooSlowError:
            return f"no answer within {_TIMEOUT:g} s", 0
        except DatabaseUnavailable:
            return "not reachable", 0

    async def _ask_redis(self) -> str:
        try:
            await self._redis.call("PING")
        except RedisUnavailable:
            return "not reachable: no rate limits, slower presence"
        return "rate limits are not in force" if self._rate.degraded else OK
