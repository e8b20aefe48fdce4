"""Parsing what a client wants of a new session, in the words of every generation (contract 02 §2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from backendai.core.session import ClusterMode, SessionType, SessionWish
from backendai.core.signing import parse_date
from backendai.gateway.parameters import Fields
from backendai.gateway.versions import ApiVersion

#: 4 to 64 characters; dots and dashes not at the ends.
NAME_PATTERN = r"(?=.{4,64}\Z)\w[\w.-]*\w"
_RESERVED_NAMES = frozenset({"from-template"})
_ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "x32": "x86", "i686": "x86"}
MAX_SCRIPT = 64 << 10
_UNITS = {
    **dict.fromkeys(("w", "week", "weeks"), 604800),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
}
_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_BARE_SECONDS = re.compile(_NUMBER, re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}\s*[a-z]+\s*)+", re.ASCII)
_PART = re.compile(rf"({_NUMBER})\s*([a-z]+)", re.ASCII)


def parse_wish(
    parameters: Mapping[str, Any],
    version: ApiVersion,
    now: datetime,
    defaults: Mapping[str, Any] | None = None,
) -> SessionWish:
    """What is not among the parameters is taken from ``defaults``. Unknown keys are ignored.

    Raises :class:`InvalidParameters` with every field that is wrong.
    """
    fields = Fields(parameters, defaults=defaults or {})
    config = fields.inner("config")
    name = fields.text("name", "clientSessionToken", required=True, pattern=NAME_PATTERN)
    if name in _RESERVED_NAMES:
        fields.refuse("name", "the name is reserved")
    clusters = config if version < (6, "20200815") else fields
    wish = SessionWish(
        name=name,
        image=fields.text("image", "lang", required=True, limit=512),
        architecture=architecture(fields),
        type=SessionType(
            fields.choice(
                "type", "sessionType", default="interactive", allowed=SessionType, kind="SessionTypes"
            )
        ),
        project=fields.text("group", "groupName", "group_name", default="default", limit=64),
        domain=fields.text("domain", "domainName", "domain_name", default="default", limit=64),
        cluster_size=clusters.integer("cluster_size", "clusterSize", default=1, minimum=1, maximum=1024),
        cluster_mode=ClusterMode(
            clusters.choice(
                "cluster_mode", "clusterMode", default="single-node", allowed=ClusterMode, kind="ClusterMode"
            )
        ),
        tag=fields.optional_text("tag", limit=64, blank=True),
        enqueue_only=fields.boolean("enqueueOnly"),
        max_wait=fields.integer("maxWaitSeconds", minimum=0),
        starts_at=fields.custom(
            "starts_at", "startsAt", convert=lambda value: _moment(value, now), default=None
        ),
        reuse=fields.boolean("reuseIfExists", default=True),
        startup_command=fields.optional_text("startupCommand", limit=MAX_SCRIPT, blank=True),
        bootstrap_script=fields.optional_text(
            "bootstrap_script", "bootstrapScript", limit=MAX_SCRIPT, blank=True
        ),
        dependencies=fields.texts("dependencies"),
        callback_url=fields.optional_text("callback_url", "callbackUrl", "callbackURL", limit=2048),
        priority=fields.integer("priority", "job_priority", minimum=-1000, maximum=1000),
        batch_timeout=fields.custom("batch_timeout", convert=_seconds, default=None),
        mounts=config.texts("mounts"),
        mount_map=config.text_mapping("mount_map", "mountMap"),
        environ=config.text_mapping("environ"),
        scaling_group=config.optional_text("scaling_group", "scalingGroup", limit=64, blank=True) or None,
        resources=_resources(config),
        resource_opts=config.mapping("resource_opts", "resourceOpts"),
        preopen_ports=config.integers("preopen_ports", "preopenPorts", minimum=1024, maximum=65535),
        agent_list=config.texts("agent_list", "agentList"),
    )
    fields.check()
    return wish


def architecture(fields: Fields) -> str:
    name = fields.text("arch", "architecture", default="x86_64", limit=16)
    return _ARCHITECTURES.get(name, name)


def _resources(config: Fields) -> dict[str, Any]:
    resources = config.mapping("resources")
    if resources:
        return resources
    # Clients before 19.03 name two of the slots, memory in GiB.
    cores = config.optional_number("instanceCores")
    memory = config.optional_number("instanceMemory")
    legacy: dict[str, Any] = {}
    if cores:
        legacy["cpu"] = str(cores)
    if memory:
        legacy["mem"] = f"{memory}g"
    return legacy


def _moment(value: Any, now: datetime) -> datetime:
    if not isinstance(value, str):
        raise ValueError("value is not a string")
    try:
        return now + timedelta(seconds=_seconds(value))
    except (ValueError, OverflowError):
        pass
    try:
        return parse_date(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("value is neither a date nor a duration") from None


def _seconds(value: Any) -> float:
    """A duration such as ``90``, ``1h30m`` or ``2 days 3 hours``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("value is not a duration")
    text = str(value).strip().lower()
    if _BARE_SECONDS.fullmatch(text):
        return float(text)
    if len(text) > 64 or not _DURATION.fullmatch(text):
        raise ValueError("value is not a duration")
    total = 0.0
    for number, unit in _PART.findall(text):
        if unit not in _UNITS:
            raise ValueError("value is not a duration")
        total += float(number) * _UNITS[unit]
    return total
