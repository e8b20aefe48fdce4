"""Images: what there is, and by what names."""

from __future__ import annotations

from collections.abc import Sequence

from backendai.bridges.postgres import Database
from backendai.core.errors import ObjectNotFound
from backendai.core.image import BadReference, parse_reference
from backendai.storage import images as store
from backendai.storage.images import ImageRecord


class ImageService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[ImageRecord]:
        """All images, with their names and the agents that have them."""
        return await store.every(self._database)

    async def resolve(self, text: str, architecture: str, registries: Sequence[str] = ()) -> ImageRecord:
        """The image that a user means (contract 02 §14); ``registries`` are those it may come from, if not
        any.

        Raises :class:`ObjectNotFound`.
        """
        found = await store.find(self._database, text, architecture)
        if found is None:
            raise ObjectNotFound("environment image", f"Unknown image references: {', '.join(_tried(text))}")
        if registries and found.registry not in registries:
            raise ObjectNotFound("environment image", "unknown alias or disallowed registry")
        return found

    async def alias(self, alias: str, reference: str, architecture: str = "x86_64") -> None:
        """Give an image another name. Raises :class:`ObjectNotFound` for an unknown image."""
        image = await self.resolve(reference, architecture)
        async with self._database.transaction() as connection:
            await store.set_alias(connection, alias, image.id)

    async def dealias(self, alias: str) -> None:
        """Take a name away. Raises :class:`ObjectNotFound`."""
        if not await store.drop_alias(self._database, alias):
            raise ObjectNotFound("image alias")


def _tried(text: str) -> list[str]:
    try:
        canonical = parse_reference(text).canonical
    except BadReference:
        return [text]
    return [text] if canonical == text else [canonical, text]
