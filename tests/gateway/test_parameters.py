"""Values as clients write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backendai.core.errors import InvalidParameters
from backendai.core.session import SessionType, SessionWish
from backendai.gateway.parameters import Fields, read_parameters
from backendai.gateway.session_wish import parse_wish
from backendai.gateway.versions import ApiVersion

NOW = datetime(2026, 11, 1, tzinfo=UTC)
V6 = ApiVersion(6, "20220315")


def test_body_counts_before_query() -> None:
    assert read_parameters(b'{"a": 1}', b"a=2") == {"a": 1}
    assert read_parameters(b"", b"a=2&a=3&b=") == {"a": "2", "b": ""}
    assert read_parameters(b"  ", b"") == {}


@pytest.mark.parametrize("value", [True, "t", "TRUE", "y", "yes", "on", "1", "1.0", 1, 1.0])
def test_true(value: Any) -> None:
    assert Fields({"x": value}).boolean("x") is True


@pytest.mark.parametrize("value", [False, "false", "n", "no", "off", "0", "0.0", "None", 0])
def test_false(value: Any) -> None:
    assert Fields({"x": value}).boolean("x", default=True) is False


@pytest.mark.parametrize("value", ["f", "maybe", "", [], {}, 2])
def test_neither(value: Any) -> None:
    fields = Fields({"x": value})
    fields.boolean("x")
    assert fields.problems == {"x": "value can't be converted to Bool"}


@pytest.mark.parametrize("value", [True, "x", 1.5, [], "9" * 30, float("inf"), float("nan"), -1, 2**40])
def test_bad_integer(value: Any) -> None:
    fields = Fields({"x": value})
    fields.integer("x", minimum=0)
    assert fields.problems


def wish(version: ApiVersion = V6, **values: Any) -> SessionWish:
    return parse_wish({"name": "my-sess", "image": "python"} | values, version, NOW)


def problems(**values: Any) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as caught:
        wish(**values)
    assert isinstance(caught.value.data, dict)
    return caught.value.data


def test_wish_of_a_recent_client() -> None:
    """The body that client 26.9 sends, keys unknown to us included."""
    parsed = wish(
        tag=None,
        config={
            "mounts": [],
            "environ": {"A": "b", "N": 5},
            "resources": {"cpu": "2", "mem": "1g"},
            "resource_opts": {},
            "scalingGroup": None,
            "mount_map": {},
            "mount_options": {},
            "mount_ids": [],
            "mount_id_map": {},
            "preopen_ports": None,
            "agentList": [],
            "attach_network": None,
        },
        dependencies=[],
        callback_url=None,
        architecture="amd64",
        clusterSize=1,
        clusterMode="single-node",
        starts_at=None,
        bootstrap_script=None,
        owner_access_key=None,
        domain="default",
        group="default",
        type="interactive",
        enqueueOnly=False,
        maxWaitSeconds=0,
        reuseIfExists=True,
        startupCommand=None,
        priority=10,
        job_priority=None,
        is_preemptible=True,
    )
    assert parsed.environ == {"A": "b", "N": "5"}
    assert parsed.resources == {"cpu": "2", "mem": "1g"}
    assert parsed.agent_list == ()
    assert parsed.architecture == "x86_64"
    assert parsed.type is SessionType.INTERACTIVE
    assert parsed.priority == 10


def test_wish_of_an_old_client() -> None:
    parsed = parse_wish(
        {
            "lang": "python3",
            "clientSessionToken": "abcdef0123456789",
            "config": {"clusterSize": "2", "instanceMemory": 0.5, "instanceCores": 2, "resources": None},
        },
        ApiVersion(4, "20181215"),
        NOW,
    )
    assert (parsed.name, parsed.image, parsed.cluster_size) == ("abcdef0123456789", "python3", 2)
    assert parsed.resources == {"cpu": "2.0", "mem": "0.5g"}


@pytest.mark.parametrize(
    "name", ["abc", "-abc", "abc-", "a b c d", "x" * 65, "na\u00efve", "a/bc", "abcd\n", 5, "from-template"]
)
def test_bad_names(name: Any) -> None:
    assert list(problems(name=name)) == ["name"]


def test_every_problem_is_told_at_once() -> None:
    assert problems(
        name=None, image="", type="inference", clusterSize=0, config={"environ": [], "preopen_ports": [80]}
    ) == {
        "name": "value is not a string",
        "image": "blank value is not allowed",
        "type": "value is not a valid member of SessionTypes",
        "clusterSize": "value is less than 1",
        "config.environ": "value is not a dict",
        "config.preopen_ports": "value is less than 1024",
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1d2h30m10s", 95410), ("1 day 2 hours", 93600), ("1w", 604800), ("1.5h", 5400)],
)
def test_start_after(text: str, seconds: float) -> None:
    assert wish(starts_at=text).starts_at == NOW + timedelta(seconds=seconds)


def test_start_at() -> None:
    assert wish(starts_at="2026-12-01T00:00:00+09:00").starts_at == datetime(2026, 11, 30, 15, tzinfo=UTC)
    for text in ("soon", "", "5 parsecs", "9" * 400, 5):
        assert list(problems(starts_at=text)) == ["starts_at"]


def test_batch_timeout() -> None:
    assert wish(batch_timeout="5m").batch_timeout == 300
    assert wish(batch_timeout=30).batch_timeout == 30
    assert list(problems(batch_timeout="never")) == ["batch_timeout"]
