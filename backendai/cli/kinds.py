"""The types of value that options have."""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from backendai.cli.options import Kind
from backendai.core.account import Secret
from backendai.core.addresses import Network

_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise ValueError("text")
    return raw


def _path(raw: Any) -> Path:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("a path")
    return Path(raw).expanduser().absolute()


def _flag(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if not isinstance(raw, str) or raw.lower() not in words:
        raise ValueError("true or false")
    return words[raw.lower()]


def _names(raw: Any) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("names separated by commas")
    return tuple(part.strip() for part in parts if part.strip())


def _measure(raw: Any, units: dict[str, float] | dict[str, int], expected: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise ValueError(expected)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(raw).strip().lower())
    if found is None or found[2] not in units:
        raise ValueError(expected)
    return float(found[1]) * units[found[2]]


def _size(raw: Any) -> int:
    return int(_measure(raw, _SIZE_UNITS, "bytes, such as 65536, 512k or 1.5g"))


def _duration(raw: Any) -> timedelta:
    return timedelta(seconds=_measure(raw, _TIME_UNITS, "a time, such as 90, 500ms, 10s, 5m, 2h or 7d"))


def _zmq_endpoint(raw: Any) -> str:
    if not isinstance(raw, str) or not re.fullmatch(
        r"tcp://[^\s/:]+:\d{1,5}|tcp://\[[0-9a-fA-F:]+\]:\d{1,5}|ipc://.+", raw
    ):
        raise ValueError("tcp://host:port or ipc://path")
    return raw


def _address(raw: Any) -> tuple[str, int]:
    host, colon, port = raw.rpartition(":") if isinstance(raw, str) else ("", "", "")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("host:port")
    return host.strip("[]"), int(port)


def whole(low: int, high: int | None = None) -> Kind[int]:
    """Whole numbers from ``low`` to ``high``."""
    expected = f"a whole number from {low}" + (f" to {high}" if high is not None else "")

    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not re.fullmatch(r"[+-]?\d+", str(raw)):
            raise ValueError(expected)
        value = int(raw)
        if value < low or (high is not None and value > high):
            raise ValueError(expected)
        return value

    return Kind("N", read)


def size(high: int) -> Kind[int]:
    """Sizes in bytes up to ``high``."""

    def read(raw: Any) -> int:
        value = _size(raw)
        if value > high:
            raise ValueError(f"at most {high} bytes")
        return value

    return Kind("SIZE", read)


def number(low: float) -> Kind[float]:
    """Numbers above ``low``."""

    def read(raw: Any) -> float:
        if isinstance(raw, bool) or not re.fullmatch(r"[+-]?\d+(\.\d+)?", str(raw)) or float(raw) <= low:
            raise ValueError(f"a number above {low:g}")
        return float(raw)

    return Kind("X", read, lambda value: f"{value:g}")


def one_of(*words: str) -> Kind[str]:
    def read(raw: Any) -> str:
        if raw not in words:
            raise ValueError("one of " + ", ".join(words))
        return str(raw)

    return Kind("|".join(words), read)


def _url(*schemes: str) -> Kind[Secret]:
    def read(raw: Any) -> Secret:
        if not isinstance(raw, str) or not raw.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(
                "an address that begins with " + " or ".join(f"{scheme}://" for scheme in schemes)
            )
        try:
            urlsplit(raw).port  # noqa: B018  (looking is checking)
        except ValueError:
            raise ValueError("a port from 0 to 65535, and %-escapes for :/?#[]@% in a password") from None
        return Secret(raw)

    return Kind("URL", read, Secret.reveal)


def _redis_url(raw: Any) -> Secret:
    url = _url("redis", "rediss", "unix").read(raw)
    parts = urlsplit(url.reveal())
    if (parts.scheme != "unix" and parts.path not in ("", "/", "/0")) or "db" in parse_qs(parts.query):
        raise ValueError("an address without a database: 1 to 4 are used")
    return url


def _networks(raw: Any) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(name) for name in _names(raw))
    except ValueError:
        raise ValueError("networks such as 127.0.0.0/8,::1/128") from None


def _write_duration(value: timedelta) -> str:
    return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


TEXT = Kind("TEXT", _text)
SECRET = Kind("TEXT", lambda raw: Secret(_text(raw)), Secret.reveal)
PATH = Kind("PATH", _path)
FLAG = Kind("", _flag, lambda value: "true" if value else "false")
NAMES = Kind("NAME,...", _names, ",".join)
NETWORKS = Kind("NETWORK,...", _networks, lambda value: ",".join(map(str, value)))
SIZE = Kind("SIZE", _size)
DURATION = Kind("TIME", _duration, _write_duration)
PORT = whole(0, 65535)
ENDPOINT = Kind("ENDPOINT", _zmq_endpoint)
ADDRESS = Kind("HOST:PORT", _address, lambda value: f"{value[0]}:{value[1]}")
DATABASE_URL = _url("postgresql", "postgres")
REDIS_URL = Kind("URL", _redis_url, Secret.reveal)
