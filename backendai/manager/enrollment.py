"""How an agent comes to be trusted: by the installation that started it, or by a one-time token."""

from __future__ import annotations

from datetime import timedelta

from backendai.bridges.postgres import Database
from backendai.core.errors import AuthFailed, BadRequest
from backendai.manager.settings import ManagerSettings
from backendai.storage import enrollment as store


class Enrollment:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue_token(self, *, valid_for: timedelta = timedelta(hours=1)) -> str:
        """A token with which one agent may enroll, once, within that time. It can be read only here."""
        return await store.issue_token(self._database, valid_for=valid_for)

    async def redeem(self, token: str, agent_id: str, public_key: str) -> None:
        """Trust ``public_key`` to speak for the agent. Raises :class:`AuthFailed` for a token that is no
        good.
        """
        async with self._database.transaction() as connection:
            if not await store.redeem(connection, token, agent_id, public_key):
                raise AuthFailed("The enrollment token is unknown, expired or used.")

    async def trust(self, agent_id: str, public_key: str) -> None:
        """Trust a key without a token: for the agent of the same installation."""
        await store.trust(self._database, agent_id, public_key)

    async def allowed_keys(self) -> set[str]:
        return set(await store.trusted(self._database))


class Admission:
    """Admits agents on other hosts, and tells them what they must know of this installation."""

    def __init__(self, enrollment: Enrollment, settings: ManagerSettings) -> None:
        self._enrollment = enrollment
        self._settings = settings

    async def admit(self, token: str, agent_id: str, public_key: str) -> dict[str, str]:
        """Trust the key; tell ours and where facts go. Raises AuthFailed, BadRequest."""
        if self._settings.keys is None:
            raise BadRequest("The link to agents is not encrypted here: no agent needs to enroll.")
        await self._enrollment.redeem(token, agent_id, public_key)
        return {
            "manager_public_key": self._settings.keys.public_key,
            "events_endpoint": self._settings.facts_endpoint,
        }
