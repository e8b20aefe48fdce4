"""Files of a ``multipart/form-data`` body, piece by piece as they arrive."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import unquote

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from backendai.core.errors import BadRequest
from backendai.gateway.body import RequestBody
from backendai.gateway.errors import UnsupportedMediaType

_MOST_HEADER_BYTES = 8192
#: Parts that are no files.
_MOST_FIELDS = 20


@dataclass(frozen=True, slots=True)
class FileBegins:
    """What comes next belongs to a file of this name, a path with ``/`` in it perhaps."""

    name: str


class FileEnds:
    pass


Piece = FileBegins | bytes | FileEnds


async def read_files(
    body: RequestBody, content_type: str, *, most: int, timeout: float
) -> AsyncGenerator[Piece, None]:
    """Each file as its name, its bytes and its end. Fields that are no files are passed over.

    Raises :class:`UnsupportedMediaType`, :class:`BadRequest` for a body that is malformed, cut short or has
    more than ``most`` files, and what :meth:`RequestBody.piece` raises.
    """
    media_type, options = parse_options_header(content_type)
    boundary = options.get("boundary")
    if media_type.lower() != "multipart/form-data" or not boundary:
        raise UnsupportedMediaType("Files are taken as multipart/form-data with a boundary")
    files, in_file = 0, False
    try:
        with PushMultipartParser(
            boundary, max_header_size=_MOST_HEADER_BYTES, max_segment_count=most + _MOST_FIELDS, strict=True
        ) as parser:
            while data := await body.piece(timeout):
                for event in parser.parse(data):
                    if isinstance(event, MultipartSegment):
                        in_file = event.filename is not None
                        files += in_file
                        if files > most:
                            raise BadRequest(f"Too many files: at most {most} at once")
                        if event.filename is not None:
                            yield FileBegins(_plain(event.filename))
                    elif not in_file:
                        continue
                    elif event is None:
                        yield FileEnds()
                    else:
                        yield bytes(event)
    except MultipartError as error:
        raise BadRequest(f"Malformed multipart body: {error}") from None


def _plain(name: str) -> str:
    """The official clients' HTTP library writes everything but letters and digits as %XX."""
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
