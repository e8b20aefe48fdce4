"""What a new session is granted of what it asks for (contract 02 §13)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from backendai.core.errors import InvalidParameters
from backendai.core.slots import INTRINSIC, SlotError, Slots, format_slots, parse_bytes, parse_slots

#: What a kernel gets when neither its owner nor its image says anything.
DEFAULTS: Slots = {"cpu": Decimal(1), "mem": Decimal(1 << 30)}
_DEFAULT_SHMEM = Decimal(64 << 20)


def granted_slots(
    resources: Mapping[str, Any],
    options: Mapping[str, Any],
    image: Mapping[str, Mapping[str, str | None]],
) -> Slots:
    """The slots of each kernel. Raises :class:`InvalidParameters`.

    ``image`` maps slot to its ``min`` and ``max``. ``cpu`` and ``mem`` that are missing or zero become the
    image's minimum, or a default of ours.
    """
    known = {*INTRINSIC, *image}
    for slot in resources:
        if slot not in known:
            raise InvalidParameters(f"Unknown requested resource slot: {slot}")
    minimum = _bounds(image, "min")
    try:
        slots = parse_slots({slot: value for slot, value in resources.items() if value is not None})
        shmem = parse_bytes(options.get("shmem") or _DEFAULT_SHMEM)
    except SlotError:
        raise InvalidParameters(
            "Your resource request has resource type(s) not supported by the image."
        ) from None
    for slot in INTRINSIC:
        if not slots.get(slot):
            slots[slot] = minimum.get(slot) or DEFAULTS[slot]
    _check_bounds(slots, minimum, _bounds(image, "max"), shmem)
    return slots


def _check_bounds(slots: Slots, minimum: Slots, maximum: Slots, shmem: Decimal) -> None:
    least = dict(minimum)
    if "mem" in least:
        least["mem"] += shmem
    if any(slots.get(slot, Decimal(0)) < amount for slot, amount in least.items()):
        raise InvalidParameters(
            f"Your resource request is smaller than the minimum required by the image. ({_told(least)})"
        )
    if any(slots.get(slot, Decimal(0)) > amount for slot, amount in maximum.items()):
        raise InvalidParameters(
            f"Your resource request is larger than the maximum allowed by the image. ({_told(maximum)})"
        )
    if any(amount.is_infinite() for amount in slots.values()):
        raise InvalidParameters(
            "Your resource request is larger than the maximum allowed by the image. (unlimited)"
        )
    if shmem >= slots["mem"]:
        raise InvalidParameters(
            f"Shared memory should be less than the main memory. (s:{shmem:f}, m:{slots['mem']:f})"
        )


def _bounds(image: Mapping[str, Mapping[str, str | None]], which: str) -> Slots:
    given = {slot: bounds.get(which) for slot, bounds in image.items()}
    return parse_slots({slot: amount for slot, amount in given.items() if amount is not None})


def _told(slots: Slots) -> str:
    return " ".join(f"{slot}={amount}" for slot, amount in format_slots(slots).items())
