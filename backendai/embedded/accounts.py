"""What a fresh database of a one-command start is given: first accounts, and the local agent's enrollment."""

from __future__ import annotations

from backendai.bridges.asyncio_loop import open_asyncio_loop
from backendai.bridges.postgres import open_database
from backendai.core.account import Secret
from backendai.storage.enrollment import trust
from backendai.storage.seed import FirstAccounts, ensure_first_accounts


async def prepare_accounts(database_url: Secret, *, agent_id: str, agent_public_key: str) -> FirstAccounts:
    """Make the first accounts where they are missing, and let the agent with this key speak for ``agent_id``.

    Expects the tables of this version. Changes nothing the second time.
    """
    async with (
        open_asyncio_loop(),
        open_database(database_url.reveal(), min_size=1, max_size=1) as database,
        database.transaction() as connection,
    ):
        accounts = await ensure_first_accounts(connection)
        await trust(connection, agent_id, agent_public_key)
        return accounts
