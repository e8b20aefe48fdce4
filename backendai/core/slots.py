"""Resource slots: names, amounts, and the arithmetic of limits (contract 02 §13).

Amounts are decimals in base units: cores for ``cpu``, bytes for ``mem``, pieces for devices. A slot that a
map does not name counts as zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

Slots = dict[str, Decimal]

INTRINSIC = ("cpu", "mem")
_INFINITE = ("inf", "infinity", "infinite")
_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate("kmgtpezy", start=1)}
_BYTES = re.compile(
    r"(?P<number>\d[\d_]*(?:\.\d+)?|\.\d+)\s*(?:(?P<unit>[kmgtpezy])(?:i?b(?:ytes?)?)?|(?P<bare>b|bytes?))?",
    re.IGNORECASE | re.ASCII,
)
_THOUSANDTH = Decimal("0.001")


class SlotError(ValueError):
    """An amount that cannot be read. ``slot`` names it when known."""

    def __init__(self, message: str, slot: str | None = None) -> None:
        super().__init__(message)
        self.slot = slot


def is_bytes(slot: str) -> bool:
    return slot == "mem" or slot.endswith(".mem")


def parse_bytes(value: Any) -> Decimal:
    """``1024``, ``"256"`` (bytes), ``"1.5g"``, ``"1 KiB"``, ``"infinity"``; a fraction needs a unit."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise SlotError(f"not an amount of bytes: {value!r}")
    text = str(value).strip()
    if text.lower() in _INFINITE:
        return Decimal("Infinity")
    match = _BYTES.fullmatch(text)
    if match is None:
        raise SlotError(f"not an amount of bytes: {text[:40]!r}")
    number = Decimal(match["number"].replace("_", ""))
    if match["unit"]:
        scaled: Decimal = number * _UNITS[match["unit"].lower()]
        return scaled.to_integral_value()
    if number != number.to_integral_value():
        raise SlotError(f"a fraction of bytes: {text[:40]!r}")
    return number.to_integral_value()


def parse_count(value: Any) -> Decimal:
    """A number of cores or devices, rounded to three places."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise SlotError(f"not a number: {value!r}")
    text = str(value).strip()
    if text.lower() in _INFINITE:
        return Decimal("Infinity")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise SlotError(f"not a number: {text[:40]!r}") from None
    if not number.is_finite() or number < 0 or number.adjusted() > 15:
        raise SlotError(f"out of range: {text[:40]!r}")
    return number.quantize(_THOUSANDTH, ROUND_HALF_UP)


def parse_slots(amounts: Mapping[str, Any]) -> Slots:
    """Read a map of amounts as clients write them. Raises :class:`SlotError`."""
    slots = {}
    for slot, value in amounts.items():
        try:
            slots[slot] = parse_bytes(value) if is_bytes(slot) else parse_count(value)
        except SlotError as error:
            raise SlotError(str(error), slot) from None
    return slots


def format_amount(amount: Decimal) -> str:
    """Plain digits without trailing zeros; ``Infinity`` for no limit."""
    if amount.is_infinite():
        return "Infinity"
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_slots(slots: Mapping[str, Decimal]) -> dict[str, str]:
    return {slot: format_amount(amount) for slot, amount in slots.items()}


def add(*maps: Mapping[str, Decimal]) -> Slots:
    total: Slots = {}
    for slots in maps:
        for slot, amount in slots.items():
            total[slot] = total.get(slot, Decimal(0)) + amount
    return total


def subtract(slots: Mapping[str, Decimal], less: Mapping[str, Decimal]) -> Slots:
    """Every slot of either map; amounts may become negative."""
    return {slot: slots.get(slot, Decimal(0)) - less.get(slot, Decimal(0)) for slot in {*slots, *less}}


def exceeded(
    wanted: Mapping[str, Decimal], limit: Mapping[str, Decimal], *, unspecified: bool
) -> Iterable[str]:
    """Slots of which ``wanted`` has more than ``limit`` allows.

    ``unspecified`` tells what a slot missing in ``limit`` means: no limit (True) or none at all (False).
    """
    for slot, amount in wanted.items():
        if slot in limit:
            if amount > limit[slot]:
                yield slot
        elif amount > 0 and not unspecified:
            yield slot


def stored(slots: Mapping[str, Any]) -> Slots:
    """Read a map as this service stores it: decimal strings in base units."""
    return {slot: Decimal(str(amount)) for slot, amount in slots.items()}
