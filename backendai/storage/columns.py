"""What the tables of all schema modules share: the metadata, and columns of the usual kinds.

Conventions: times are ``timestamptz``; a map of resource slots is ``jsonb`` of slot name to decimal string
in base units (``{"cpu": "2", "mem": "1073741824"}``); statuses are text, by the names the API shows.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

NOW = sa.text("now()")
EMPTY_MAP = sa.text("'{}'::jsonb")
EMPTY_LIST = sa.text("'[]'::jsonb")


def time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    default = None if nullable else NOW
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def json_map(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=EMPTY_MAP)


def json_list(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=EMPTY_LIST)


def flag(name: str, default: bool) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.true() if default else sa.false())


def number(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=str(default))


def text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def optional(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text)
