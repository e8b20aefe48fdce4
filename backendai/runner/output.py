"""What a kernel has printed, in one file of its directory: written at its end, or made from what is left."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from backendai.core.output import MOST_LOG, MOST_OF_RUNS, KernelOutput
from backendai.runner.journal import log_tail
from backendai.runner.runs import RunBook
from backendai.wire.runner import JOURNAL, OUTPUT_FILE


def write(book: RunBook) -> None:
    """Write the file of the kernel in the working directory, all of whose runs have ended.

    Without room for it the log files remain: they are told of in the runner's own log, and used by
    :func:`salvage`.
    """
    try:
        text, truncated = log_tail(Path(JOURNAL), MOST_LOG)
        _write(
            Path(OUTPUT_FILE),
            KernelOutput(log=text, log_truncated=truncated, runs=book.kept(MOST_OF_RUNS)),
        )
    except OSError as error:
        print(f"what the kernel printed cannot be written: {error}", file=sys.stderr)


def salvage(directory: Path) -> Path | None:
    """The file of a kernel whose runner has ended, one way or another; None when nothing is left.

    A runner that was killed has left the log, but nobody knows its runs. Raises :class:`OSError`.
    """
    path = directory / OUTPUT_FILE
    if not path.exists():
        try:
            text, truncated = log_tail(directory / JOURNAL, MOST_LOG)
        except FileNotFoundError:
            return None
        _write(path, KernelOutput(log=text, log_truncated=truncated, runs=None))
    return path


def _write(path: Path, output: KernelOutput) -> None:
    """Whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.msgpack.encode(output))
    fresh.replace(path)
