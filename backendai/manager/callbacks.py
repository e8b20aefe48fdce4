"""Tell the URLs that sessions name what happens to them (contract 02 §2.6).

Each event is sent until the receiver answers with 2xx, in the order of events, and given up after some hours.
A receiver may see an event twice, never two of one session in the wrong order, and can check that it comes
from here: the request is signed with a key that is derived from the secret key of the session's owner.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import msgspec
import structlog
import trio

from backendai.bridges.postgres import Database
from backendai.core.account import Secret
from backendai.core.addresses import Network
from backendai.manager.clock import Clock, wall_time
from backendai.manager.posting import PostFailed, parse_place, post
from backendai.storage import callbacks as store
from backendai.storage.callbacks import Callback
from backendai.supervision.periodic import Alarm

log = structlog.get_logger(__name__)

#: Seconds for one delivery, from resolving the name to the first line of the answer.
TIMEOUT = 30.0
#: The pause after each failure; after the last one it is given up.
_PAUSES = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 3600, 4 * 3600))
_CONCURRENCY = 32
#: Seconds between looks when nothing is heard.
_LOOK_ANYWAY = 5.0
#: How long what was given up can be looked at.
_RETENTION = timedelta(days=3)
_GONE = 410


class CallbackSender:
    """Delivers what waits. Only the holder of the lease runs it; two would deliver twice, at worst."""

    def __init__(
        self, database: Database, allowed: Sequence[Network], waiting: Alarm, clock: Clock = wall_time
    ) -> None:
        self._database = database
        self._allowed = allowed
        self._waiting = waiting
        self._clock = clock
        #: Sessions one of whose callbacks is on its way.
        self._busy: set[UUID] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._busy.clear()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                room = _CONCURRENCY - len(self._busy)
                if room:
                    for each in await store.due(self._database, self._clock(), self._busy, room):
                        self._busy.add(each.session_id)
                        nursery.start_soon(self._deliver, each)
                with trio.move_on_after(_LOOK_ANYWAY):
                    await self._waiting.wait()

    async def prune(self) -> None:
        await store.prune(self._database, self._clock() - _RETENTION)

    async def _deliver(self, callback: Callback) -> None:
        try:
            with trio.fail_after(TIMEOUT):
                await self._post(callback)
        except trio.TooSlowError:
            await self._failed(callback, PostFailed(f"no answer within {TIMEOUT:g} s"))
        except PostFailed as failure:
            await self._failed(callback, failure)
        else:
            await store.delivered(self._database, callback.id)
        finally:
            self._busy.discard(callback.session_id)
            self._waiting.ring()

    async def _post(self, callback: Callback) -> None:
        if callback.secret_key is None:
            raise PostFailed("the key pair of the session is gone", final=True)
        body = msgspec.json.encode(
            {
                "type": "session_lifecycle",
                "event": callback.event,
                "session_id": callback.session_id,
                "when": callback.when,
            }
        )
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "backendai",
            "X-BackendAI-Event-Id": str(callback.id),
            "X-BackendAI-Access-Key": callback.access_key,
            "X-BackendAI-Signature": signature(callback.secret_key, int(self._clock().timestamp()), body),
        }
        try:
            place = parse_place(callback.url)
        except ValueError as error:
            raise PostFailed(f"the URL {error}", final=True) from error
        status = await post(place, body, headers, allowed=self._allowed)
        if not 200 <= status < 300:
            raise PostFailed(f"the receiver answered {status}", final=status == _GONE)

    async def _failed(self, callback: Callback, failure: PostFailed) -> None:
        final = failure.final or callback.attempts >= len(_PAUSES)
        next_attempt = None if final else self._clock() + _PAUSES[callback.attempts]
        log.info(
            "callbacks.failed",
            session=str(callback.session_id),
            why=str(failure),
            given_up=next_attempt is None,
        )
        await store.failed(self._database, callback.id, str(failure)[:500], next_attempt)


def signature(secret_key: Secret, now: int, body: bytes) -> str:
    """``t=<seconds since the epoch>,v1=<HMAC-SHA256 of "t.body" in hexadecimal digits>``.

    The key is HMAC-SHA256 of ``backendai-callback`` under the secret key, so that a receiver that knows it
    cannot sign requests to the API.
    """
    key = hmac.digest(secret_key.reveal().encode(), b"backendai-callback", hashlib.sha256)
    digest = hmac.digest(key, b"%d.%s" % (now, body), hashlib.sha256).hex()
    return f"t={now},v1={digest}"
