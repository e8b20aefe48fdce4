"""What ``up`` tells the person, and the programs, that started it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backendai.core.account import Secret
from backendai.storage.seed import FirstAccounts

#: Beside the data: how to reach the running service, for ``backendai request`` and its like.
CONNECTION_FILE = "up.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    endpoint: str
    endpoint_tls: str
    accounts: FirstAccounts
    pids: Mapping[str, int]
    data_dir: Path
    authority: Path | None
    #: Where clients of 2017 are served, if they are.
    legacy_endpoint: str | None = None

    def content(self) -> dict[str, object]:
        """For programs; secrets included, so for nobody but the owner."""
        return {
            "endpoint": self.endpoint,
            "endpoint_tls": self.endpoint_tls,
            **({} if self.legacy_endpoint is None else {"legacy_endpoint": self.legacy_endpoint}),
            **self.accounts.content(),
            "pids": dict(self.pids),
        }

    def as_text(self, *, default_place: bool) -> str:
        keys = self.accounts
        place = "" if default_place else f" --data-dir {self.data_dir}"
        legacy = f"\n  for 2017      {self.legacy_endpoint}" if self.legacy_endpoint else ""
        trust = f" (authority: {self.authority})" if self.authority else ""
        program = _program()
        sign = f"{program} sign{place}"
        return f"""
backendai is up.

  endpoint      {self.endpoint}
  with TLS      {self.endpoint_tls}{trust}{legacy}
  access key    {keys.access_key}
  secret key    {keys.secret_key.reveal()}
  as admin      {keys.admin_access_key}  {keys.admin_secret_key.reveal()}
  data, logs    {self.data_dir}, {self.data_dir / "logs"}

Run code with the official client (pip install backend.ai-client):

  export BACKEND_ENDPOINT={self.endpoint} BACKEND_ENDPOINT_TYPE=api \\
         BACKEND_ACCESS_KEY={keys.access_key} BACKEND_SECRET_KEY={keys.secret_key.reveal()}
  backend.ai run -c 'print(1+1)' python

Run code with curl (`sign` writes the signed headers):

  {sign} POST /session '{{"image": "python", "clientSessionToken": "first"}}' | curl -K -
  {sign} POST /session/first '{{"mode": "query", "runId": "1", "code": "print(1+1)"}}' | curl -K -

Open a shell:

  {program} shell{place} python

Ctrl-C stops everything.
"""


def _program() -> str:
    """How this person's shell finds us: by name where that is on the PATH, else by path."""
    own = Path(sys.executable).with_name("backendai")
    found = shutil.which("backendai")
    named = found is not None and Path(found).resolve() == own.resolve()
    return "backendai" if named else shlex.quote(str(own))


@contextmanager
def connection_file(announcement: Announcement, database_url: Secret) -> Iterator[None]:
    """Leave the announcement beside the data for the length of the body, readable by the owner only."""
    path = announcement.data_dir / CONNECTION_FILE
    unfinished = path.with_name(path.name + ".new")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({**announcement.content(), "database_url": database_url.reveal()}, file, indent=2)
    unfinished.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
