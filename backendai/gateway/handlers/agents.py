"""``/agent/enroll``: an agent on another host becomes trusted with a one-time token."""

from __future__ import annotations

import re

from backendai.core.errors import InvalidParameters, NotImplementedByServer
from backendai.gateway.call import Call
from backendai.gateway.reply import Reply, json_reply
from backendai.gateway.route import Route

_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: The alphabet of ZeroMQ's Base85.
_PUBLIC_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MAX_TOKEN = 200


async def enroll(call: Call) -> Reply:
    """Trust the public key that comes with a good token; answer what the agent must know of us."""
    token, agent_id, public_key = (call.parameters.get(name) for name in ("token", "agent_id", "public_key"))
    if not isinstance(token, str) or not 0 < len(token) <= _MAX_TOKEN:
        raise InvalidParameters.of({"token": "an enrollment token is required"})
    if not isinstance(agent_id, str) or not _AGENT_ID.fullmatch(agent_id):
        raise InvalidParameters.of({"agent_id": "up to 64 letters, digits, dots, dashes and underscores"})
    if not isinstance(public_key, str) or not _PUBLIC_KEY.fullmatch(public_key):
        raise InvalidParameters.of({"public_key": "40 characters of Z85"})
    admission = call.services.admission
    if admission is None:
        raise NotImplementedByServer
    return json_reply(await admission.admit(token, agent_id, public_key))


ROUTES = (Route(method="POST", path="/agent/enroll", handler=enroll, signed=False),)
