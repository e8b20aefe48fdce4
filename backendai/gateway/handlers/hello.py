"""What anybody may ask: who is there, is it well, how is it doing."""

from __future__ import annotations

from backendai.gateway.call import Call
from backendai.gateway.metrics import Metrics
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import VERSIONED, Route
from backendai.gateway.versions import ANNOUNCED_MANAGER, ANNOUNCED_VERSION

_HELLO = json_reply({"version": ANNOUNCED_VERSION, "manager": ANNOUNCED_MANAGER})
_ALIVE = json_reply({"status": "ok"})
#: Components without which a process cannot serve; the others degrade it.
_VITAL = ("database", "loops")


async def hello(_call: Call) -> Reply:
    return _HELLO


async def alive(_call: Call) -> Reply:
    """``/healthz``: the process answers. Says nothing of what it depends on."""
    return _ALIVE


async def ready(call: Call) -> Reply:
    """``/readyz``: 503 when something is missing that no request could do without."""
    components = await call.services.health.readiness()
    unready = [name for name in _VITAL if components.get(name, "ok") != "ok"]
    degraded = any(state != "ok" for state in components.values())
    status = "unready" if unready else "degraded" if degraded else "ok"
    return json_reply({"status": status, "components": components}, 503 if unready else 200)


def routes(metrics: Metrics) -> tuple[Route, ...]:
    async def measure(_call: Call) -> Reply:
        return Reply(200, metrics.text(), ((b"content-type", metrics.content_type.encode()),))

    return (
        Route(method="GET", path="/", handler=hello, signed=False),
        Route(method="GET", path=VERSIONED, handler=hello, signed=False),
        Route(method="GET", path="/healthz", handler=alive, signed=False),
        Route(method="GET", path="/readyz", handler=ready, signed=False),
        Route(method="GET", path="/metrics", handler=measure, signed=False),
    )
