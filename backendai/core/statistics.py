"""Measurements as the API shows them (contracts 02 §6.3 and 06 §4.3)."""

from __future__ import annotations

from typing import Any

from backendai.core.kernel import KernelStat


def metrics(stat: KernelStat | None) -> dict[str, Any]:
    """Metric name to ``{current, capacity, pct, unit_hint, stats.*}`` with decimal strings; empty without
    ``stat``.
    """
    if stat is None:
        return {}
    percent = f"{stat.cpu_util:.2f}"
    return {
        "cpu_used": _metric(f"{stat.cpu_used:.0f}", "msec"),
        "cpu_util": _metric(percent, "percent", pct=percent),
        "mem": _metric(str(stat.mem), "bytes", **{"stats.max": str(max(stat.mem, stat.mem_max))}),
        "io_read": _metric(str(stat.io_read), "bytes"),
        "io_write": _metric(str(stat.io_write), "bytes"),
        "io_scratch_size": _metric(str(stat.scratch), "bytes", **{"stats.max": str(stat.scratch)}),
    }


def _metric(current: str, unit: str, **more: str) -> dict[str, str | None]:
    return {"current": current, "capacity": None, "pct": None, "unit_hint": unit, **more}
