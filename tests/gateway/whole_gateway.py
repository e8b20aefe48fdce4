"""What tests of a whole gateway process share: its settings and the people who ask it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fakes import USER

from backendai.core.account import Principal
from backendai.core.ids import AccessKey
from backendai.storage.seed import FirstAccounts


@dataclass(frozen=True, slots=True)
class Person:
    principal: Principal
    secret: str

    @property
    def signing(self) -> dict[str, object]:
        return {"principal": self.principal, "secret": self.secret}


def people(accounts: FirstAccounts) -> tuple[Person, Person]:
    """The ordinary user and the admin."""
    return (
        Person(replace(USER, access_key=AccessKey(accounts.access_key)), accounts.secret_key.reveal()),
        Person(
            replace(USER, access_key=AccessKey(accounts.admin_access_key)), accounts.admin_secret_key.reveal()
        ),
    )
