"""Which migrations this version of the program has, told from their files: nothing of alembic is loaded."""

from __future__ import annotations

from pathlib import Path


def scripts() -> Path:
    """The directory of alembic's scripts: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_alembic"
    return shipped if shipped.is_dir() else package.parent / "alembic"


def known() -> tuple[str, ...]:
    """The revisions in their order. A file's name begins with its revision, a number of four digits."""
    return tuple(sorted(path.name.partition("_")[0] for path in scripts().glob("versions/[0-9]*_*.py")))
