"""The work that is measured in the same way on every server of kernels: ours, the peer, and a bare client.

Standard library only: it is also imported in the peer's environment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

#: What is run: too small to matter beside the way there and back.
CODE = "1+1"


class Kernel(Protocol):
    """A session with a kernel that is ready or getting ready."""

    def execute(self, code: str) -> None:
        """Return when the run has finished and its output has arrived; raise if it failed."""

    def close(self) -> None:
        """End the session."""


@dataclass(frozen=True)
class Amount:
    """How much is done; all of it bounded."""

    starts: int = 7
    runs: int = 200
    at_once: int = 4
    #: Rates are measured this often and the best one counts, on every side: disturbance only makes worse.
    rounds: int = 3
    #: Seconds of rest before each start, so that none pays for the end of the one before it, and a pool of
    #: ready kernels has filled up again.
    rest: float = 2.5


def measure_starts(open_kernel: Callable[[], Kernel], amount: Amount) -> dict[str, float]:
    """Milliseconds from asking for a session to the first result in it."""
    taken = []
    for _ in range(amount.starts):
        time.sleep(amount.rest)
        begin = time.perf_counter()
        with closing(open_kernel()) as kernel:
            kernel.execute(CODE)
            taken.append(time.perf_counter() - begin)
    return milliseconds(taken)


def measure_runs(open_kernel: Callable[[], Kernel], amount: Amount) -> dict[str, Any]:
    """Milliseconds of one warm run, and runs per second with several sessions driven at once."""
    with closing(open_kernel()) as kernel:
        kernel.execute(CODE)
        taken = []
        for _ in range(amount.runs):
            begin = time.perf_counter()
            kernel.execute(CODE)
            taken.append(time.perf_counter() - begin)
    return {"run_ms": milliseconds(taken), "runs_per_s": _drive_at_once(open_kernel, amount)}


def _drive_at_once(open_kernel: Callable[[], Kernel], amount: Amount) -> float:
    kernels = [open_kernel() for _ in range(amount.at_once)]
    each = amount.runs // 2
    failures: list[BaseException] = []

    def drive(kernel: Kernel) -> None:
        try:
            for _ in range(each):
                kernel.execute(CODE)
        except BaseException as error:  # carried to the main thread, which raises it
            failures.append(error)

    try:
        for kernel in kernels:
            kernel.execute(CODE)
        shortest = min(_together(drive, kernels) for _ in range(amount.rounds))
    finally:
        for kernel in kernels:
            kernel.close()
    if failures:
        raise failures[0]
    return round(len(kernels) * each / shortest, 1)


def _together(drive: Callable[[Kernel], None], kernels: Sequence[Kernel]) -> float:
    """Seconds until all kernels have been driven, each by a thread."""
    threads = [threading.Thread(target=drive, args=(kernel,)) for kernel in kernels]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {"p50": at(0.5), "p95": at(0.95)}
