from __future__ import annotations

from decimal import Decimal

import pytest

from backendai.core.errors import InvalidParameters
from backendai.core.image import BadReference, aliases_of, parse_reference
from backendai.core.quota import granted_slots
from backendai.core.slots import SlotError, exceeded, format_slots, parse_bytes, parse_count, parse_slots


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (256, 256),
        ("256", 256),
        ("1_000", 1000),
        ("1g", 1 << 30),
        ("1.5G", 3 << 29),
        ("1 KiB", 1024),
        ("2mbytes", 2 << 20),
        ("512b", 512),
        (1 << 40, 1 << 40),
    ],
)
def test_bytes(text: object, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["1.5", 1.5, "", "g", "-1", "1x", True, None, [], "1gg", "٣"])
def test_not_bytes(text: object) -> None:
    with pytest.raises(SlotError):
        parse_bytes(text)


def test_counts_are_rounded_to_three_places() -> None:
    assert format_slots({"a": parse_count("0.3000"), "b": parse_count(1.23456), "c": parse_count("4")}) == {
        "a": "0.3",
        "b": "1.235",
        "c": "4",
    }
    for bad in ("x", "nan", "-1", "1e99", False):
        with pytest.raises(SlotError):
            parse_count(bad)


def test_an_unreadable_slot_is_named() -> None:
    with pytest.raises(SlotError) as caught:
        parse_slots({"cpu": 1, "mem": "much"})
    assert caught.value.slot == "mem"


def test_no_limit_and_no_mention() -> None:
    assert format_slots({"mem": parse_bytes("infinite")}) == {"mem": "Infinity"}
    wanted = {"cpu": Decimal(2), "gpu": Decimal(1)}
    assert list(exceeded(wanted, {"cpu": Decimal(2)}, unspecified=True)) == []
    assert list(exceeded(wanted, {"cpu": Decimal(1)}, unspecified=False)) == ["cpu", "gpu"]


IMAGE: dict[str, dict[str, str | None]] = {
    "cpu": {"min": "1", "max": "4"},
    "mem": {"min": "256m", "max": None},
    "cuda.shares": {"min": "0", "max": "2"},
}


def test_missing_amounts_become_the_minimum() -> None:
    assert granted_slots({}, {}, {}) == {"cpu": 1, "mem": 1 << 30}
    assert granted_slots({"cpu": 0, "mem": "1g"}, {}, IMAGE) == {"cpu": 1, "mem": 1 << 30}


@pytest.mark.parametrize(
    ("resources", "options", "words"),
    [
        ({"tpu.device": 1}, {}, "Unknown requested resource slot: tpu.device"),
        ({"cpu": "many"}, {}, "not supported by the image"),
        ({"cpu": "0.5", "mem": "1g"}, {}, "smaller than the minimum"),
        ({"cpu": 1, "mem": "300m"}, {}, "smaller than the minimum"),
        ({"cpu": 5, "mem": "1g"}, {}, "larger than the maximum"),
        ({"cpu": 1, "mem": "inf"}, {}, "larger than the maximum"),
        ({"cpu": 1, "mem": "1g"}, {"shmem": "1g"}, "smaller than the minimum"),
    ],
)
def test_refused_resources(resources: dict[str, object], options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidParameters, match=words):
        granted_slots(resources, options, IMAGE)


def test_shared_memory_must_leave_memory() -> None:
    with pytest.raises(InvalidParameters, match="Shared memory should be less"):
        granted_slots({"mem": "1g"}, {"shmem": "1g"}, {})


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            "cr.backend.ai/stable/python:3.9-ubuntu20.04",
            "cr.backend.ai/stable/python:3.9-ubuntu20.04",
        ),
        ("python", "index.docker.io/lablup/python:latest"),
        ("python:3.6", "index.docker.io/lablup/python:3.6"),
        ("localhost:5000/team/tool", "localhost:5000/team/tool:latest"),
    ],
)
def test_references(text: str, canonical: str) -> None:
    assert parse_reference(text).canonical == canonical


@pytest.mark.parametrize("text", ["", "http://x/y", "//x/y", "x/y:", "x/y:-bad", "x/ y", "x" * 600])
def test_no_references(text: str) -> None:
    with pytest.raises(BadReference):
        parse_reference(text)


def test_aliases() -> None:
    aliases = aliases_of(parse_reference("cr.backend.ai/stable/kernel-python:3.6-ubuntu18.04"))
    assert {"python", "python:3", "python:3.6", "python:3.6-ubuntu", "python:3.6-ubuntu18.04"} <= set(aliases)
