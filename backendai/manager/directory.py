"""The directory: everything that can be looked up by structured queries, as far as the asker may see it.

Answers are plain records, dicts by field name, with exactly what was selected of them. A lookup costs one
statement, and one more for each selected relation, never one per record.
"""

from __future__ import annotations

from backendai.bridges.postgres import Database
from backendai.manager.directory_accounts import AccountDirectory
from backendai.manager.directory_fleet import FleetDirectory
from backendai.manager.directory_records import LiveStatistics, RecordReader
from backendai.manager.directory_sessions import SessionDirectory


class DirectoryService:
    """All methods of its parts raise the refusals of the access rules (contract 06 §3) for the asker, and
    :class:`~backendai.core.errors.InvalidParameters` for arguments that make no sense.
    """

    def __init__(self, database: Database, statistics: LiveStatistics) -> None:
        records = RecordReader(database, statistics)
        self.sessions = SessionDirectory(records)
        self.accounts = AccountDirectory(records)
        self.fleet = FleetDirectory(records)
