"""The rows of the table, and whether each reached its target."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from work import CODE

#: The original asyncio manager (25.5.2, one worker) on this class of machine.
ORIGINAL = {"auth_rps": 367.0, "list_rps": 18.0}
#: More transactions per second that count as none beside 670 heartbeats: sweeps and leases fall unevenly.
NO_SQL = 0.5


@dataclass(frozen=True)
class Row:
    """One line: what was measured, the figure with its unit, beside what it is judged, and the verdict.

    ``met`` is None when what it is judged by was not measured in this run.
    """

    work: str
    measured: str
    beside: str
    target: str
    met: bool | None


def table(rows: Iterable[Row]) -> str:
    """As Markdown."""
    verdict = {True: "met", False: "**missed**", None: "not judged"}
    lines = ["| Work | Measured | Beside | Target | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.work} | {row.measured} | {row.beside} | {row.target} | {verdict[row.met]} |" for row in rows
    ]
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    about = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in about if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        #: Others at work while measuring make all figures worse, and not all alike.
        "load": os.getloadavg()[0],
    }


def judge(figures: Mapping[str, Any]) -> list[Row]:
    """The table of targets, from what was measured."""
    ours, cold, bare, peer = figures["ours"], figures["cold"], figures["bare"], figures.get("peer")
    fleet, empty = figures["fleet"], figures["empty"]
    empty_rps = empty["rps"]
    info, auth, listed = figures["info"], figures["auth"], figures["list"]
    start, first, run = ours["start_ms"]["p50"], cold["start_ms"]["p50"], ours["run_ms"]["p50"]
    over_bare = run - bare["run_ms"]["p50"]
    more_sql = fleet["beating"]["transactions_per_s"] - fleet["idle"]["transactions_per_s"]
    return [
        Row(
            "create session (warm pool) to first result, p50",
            f"{start} ms",
            f"peer {peer['start_ms']['p50']} ms" if peer else "",
            "5x faster than the peer",
            peer and 5 * start <= peer["start_ms"]["p50"],
        ),
        Row(
            "create session (no warm kernel) to first result, p50",
            f"{first} ms",
            f"peer {peer['start_ms']['p50']} ms" if peer else "",
            "no slower than the peer",
            peer and first <= peer["start_ms"]["p50"],
        ),
        Row(
            f"warm `{CODE}` over HTTP, p50",
            f"{run} ms",
            f"peer {peer['run_ms']['p50']} ms" if peer else "",
            "4x faster than the peer",
            peer and 4 * run <= peer["run_ms"]["p50"],
        ),
        Row(
            f"the same over a bare jupyter_client ({bare['run_ms']['p50']} ms)",
            f"{over_bare:+.2f} ms",
            "",
            "at most +6 ms",
            over_bare <= 6,
        ),
        Row(
            "4 sessions driven at once",
            f"{ours['runs_per_s']} runs/s",
            f"peer {peer['runs_per_s']} runs/s" if peer else "",
            "2.5x the peer",
            peer and ours["runs_per_s"] >= 2.5 * peer["runs_per_s"],
        ),
        Row(
            "signed `GET /session/{s}`, 16 connections",
            f"{info['rps']}/s ({100 * info['rps'] / empty_rps:.0f} %), p99 {info['p99_ms']} ms",
            f"empty handler {empty_rps:.0f}/s",
            "60 % of the empty handler, p99 under 60 ms",
            info["rps"] >= 0.6 * empty_rps and info["p99_ms"] < 60,
        ),
        Row(
            "signed `GET /auth?echo=`, 8 connections",
            f"{auth['rps']}/s, p50 {auth['p50_ms']} ms",
            f"original {ORIGINAL['auth_rps']:.0f}/s",
            "2x the original",
            auth["rps"] >= 2 * ORIGINAL["auth_rps"],
        ),
        Row(
            "GraphQL list of 100 running sessions, 8 connections",
            f"{listed['rps']}/s, p50 {listed['p50_ms']} ms",
            f"original {ORIGINAL['list_rps']:.0f}/s",
            "10x the original",
            listed["rps"] >= 10 * ORIGINAL["list_rps"],
        ),
        Row(
            f"heartbeats of {fleet['agents']} agents every 3 s",
            f"{fleet['beating']['core_percent']} % of a core, {more_sql:+.2f} transactions/s",
            f"idle {fleet['idle']['core_percent']} %, {fleet['idle']['transactions_per_s']} transactions/s",
            "under 30 % of a core, no SQL",
            fleet["beating"]["core_percent"] < 30 and more_sql < NO_SQL,
        ),
        Row(
            "resident memory of the gateway with the manager after all this",
            f"{figures['resident_mib']} MiB",
            "",
            "under 200 MB",
            figures["resident_mib"] * 1.048576 < 200,
        ),
    ]
