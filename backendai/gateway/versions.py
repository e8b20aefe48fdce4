"""API versions: what we announce and accept, and which one a request is written in (contract 01 §1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from backendai.core.errors import BadRequest

#: What ``GET /`` announces. Every client from 20.03 to 26.x works against it.
ANNOUNCED_VERSION = "v6.20220315"
#: The release of the original whose behaviour that version stands for; clients show it.
ANNOUNCED_MANAGER = "22.03.3"
#: By precedence; the name matters to the signature.
VERSION_HEADERS = ("x-backendai-version", "x-sorna-version")

_FORM = re.compile(r"v([1-9])\.(\d{8})", re.ASCII)
#: The newest revision of a major, for requests that only say the major in their path.
_NEWEST = {
    1: "20160915",
    2: "20170915",
    3: "20181215",
    4: "20190615",
    5: "20191215",
    6: "20220315",
    7: "20230615",
    8: "20240915",
    9: "20250722",
}
_DEFAULT_MAJOR = 5


class ApiVersion(NamedTuple):
    """Compares as the contract does: by major, then by the date of the revision."""

    major: int
    revision: str


def version_header(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and value of the header that states the version, if there is one."""
    for name in VERSION_HEADERS:
        value = headers.get(name)
        if value:
            return name, value
    return None


@lru_cache(maxsize=256)
def parse_version(text: str) -> ApiVersion:
    """Raises :class:`BadRequest` for anything but ``v1.…`` to ``v9.…``."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadRequest("Unsupported API version.")
    return ApiVersion(int(match[1]), match[2])


def version_of(headers: Mapping[str, str], path_major: int | None) -> ApiVersion:
    """The version a request is written in: its header, else the prefix of its path, else a default."""
    stated = version_header(headers)
    if stated is not None:
        return parse_version(stated[1])
    major = path_major or _DEFAULT_MAJOR
    return ApiVersion(major, _NEWEST[major])
