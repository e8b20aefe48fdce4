"""How far readers of event streams have come, for those that come back without saying so.

The official clients reconnect with the very request of their first connection. Who made it is known by that,
and where it stopped is kept in Redis for as long as such a request stays valid. Losing it costs what happened
between the two connections; remembering it late repeats what was sent since.
"""

from __future__ import annotations

import hashlib

import structlog

from backendai.bridges.redis import RedisBridge, RedisUnavailable

log = structlog.get_logger(__name__)

#: Seconds; the date of a signed request is good for 15 minutes either way.
_KEPT = 1800


class StreamCursors:
    def __init__(self, redis: RedisBridge) -> None:
        self._redis = redis

    async def recall(self, reader: str) -> int | None:
        """Number of the last event that was sent to ``reader``, any text that tells readers apart."""
        try:
            number = await self._redis.call("GET", _key(reader))
        except RedisUnavailable as error:
            log.warning("events.cursor-unknown", error=str(error))
            return None
        return None if number is None else int(number)

    async def remember(self, reader: str, number: int) -> None:
        try:
            await self._redis.call("SET", _key(reader), number, "EX", _KEPT)
        except RedisUnavailable as error:
            log.warning("events.cursor-not-kept", error=str(error))


def _key(reader: str) -> str:
    return "events:" + hashlib.sha256(reader.encode()).hexdigest()
