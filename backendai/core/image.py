"""Image references and the aliases they give rise to (contract 02 §14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations

DEFAULT_REGISTRY = "index.docker.io"
_TAG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*", re.ASCII | re.IGNORECASE)
_PLATFORM = re.compile(r"(?P<name>[A-Za-z]+)(?P<version>[\d.]*)", re.ASCII)


class BadReference(ValueError):
    """The text is no image reference."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    registry: str
    name: str
    tag: str

    @property
    def canonical(self) -> str:
        return f"{self.registry}/{self.name}:{self.tag}"

    @property
    def base_name(self) -> str:
        """What people call the image: the last part of its name, without ``kernel-`` before it."""
        return self.name.rpartition("/")[2].removeprefix("kernel-")


def parse_reference(text: str) -> ImageReference:
    """Read ``[registry/]name[:tag]``. Raises :class:`BadReference`.

    The first component is the registry; a single component belongs to ``lablup/`` on Docker Hub; the tag is
    ``latest`` unless given.
    """
    if "://" in text or text.startswith("//") or len(text) > 512:
        raise BadReference(f"not an image reference: {text[:80]!r}")
    path, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        path, tag = text, "latest"
    registry, slash, name = path.partition("/")
    if not slash:
        registry, name = DEFAULT_REGISTRY, f"lablup/{path}"
    if not registry or not _NAME.fullmatch(name) or not _TAG.fullmatch(tag):
        raise BadReference(f"not an image reference: {text[:80]!r}")
    return ImageReference(registry, name, tag)


def aliases_of(reference: ImageReference) -> tuple[str, ...]:
    """Short names under which people may ask for the image; a newer image takes a shared one over.

    ``…/python:3.11-ubuntu22.04`` gives ``python``, ``python:3``, ``python:3.11``, ``python:3.11-ubuntu``,
    ``python:3.11-ubuntu22.04`` and so on.
    """
    version, *platforms = reference.tag.split("-")
    versions = [version]
    if version[:1].isdigit() and "." in version:
        versions.append(version.partition(".")[0])
    base = reference.base_name
    names = {base, f"{base}:{reference.tag}"}
    for size in range(len(platforms) + 1):
        for chosen in combinations(platforms, size):
            for spelled in (chosen, tuple(_short(platform) for platform in chosen)):
                names.update(f"{base}:{'-'.join((each, *spelled))}" for each in versions)
    return tuple(sorted(names))


def _short(platform: str) -> str:
    match = _PLATFORM.fullmatch(platform)
    return match["name"] if match else platform
