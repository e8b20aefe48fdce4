"""Files of a kernel for its user: listed, taken out, put in. Done inside the sandbox, as the kernel's user.

The functions here are errands: each runs in a forked process, with a blocking socket on which it speaks the
runner's own protocol: an answer first, then the frames of a stream. A kernel can send signals to that
process, no more; whatever it makes of its files, they are followed in its own view of the world, and what
leads out of the home directory there is refused all the same, so that users can rely on one rule.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from backendai.core.files import FileEntry, FileListing
from backendai.engines.contract import HOME_INSIDE
from backendai.runner.stream_server import StreamRefused
from backendai.wire import runner as wire
from backendai.wire.streams import CHUNK_BYTES, Closed, Data, Eof, StreamFrame

_MAX_ENTRIES = 10_000
_MAX_PATHS = 100
_MAX_PATH = 4096
#: Bytes of one archive: sparse files take little on disk.
_MAX_ARCHIVE = 64 << 30
_NOT_FOLLOWED = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Name of what is not all there yet.
_UPLOADING = ".uploading-"
_CODES = {
    errno.ENOENT: "not-found",
    errno.ENOTDIR: "not-found",
    errno.ENXIO: "forbidden-path",
    errno.ELOOP: "forbidden-path",
    errno.EFBIG: "too-large",
    errno.ENOSPC: "too-large",
    errno.EDQUOT: "too-large",
}


class _Ended(Exception):
    """The stream cannot go on; ``closed`` says why."""

    def __init__(self, closed: Closed) -> None:
        super().__init__(closed.msg)
        self.closed = closed


class _Peer:
    """The runner, from within the errand."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._frames = wire.FrameBuffer()

    def answer(self, answer: wire.RunnerAnswer) -> None:
        self._channel.sendall(wire.encode_frame(0, answer))

    def send(self, frame: StreamFrame) -> None:
        self._channel.sendall(wire.encode_stream_frame(frame))

    def receive(self) -> StreamFrame:
        while (frame := self._frames.next_stream_frame()) is None:
            data = self._channel.recv(CHUNK_BYTES)
            if not data:
                return Closed("aborted")
            self._frames.feed(data)
        return frame

    # what tarfile wants of a file
    def write(self, data: bytes) -> int:
        for start in range(0, len(data), CHUNK_BYTES):
            self.send(Data(data[start : start + CHUNK_BYTES]))
        return len(data)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Tell whatever goes wrong, before the answer or after."""
        try:
            yield
        except StreamRefused as refused:
            self.answer(wire.Refusal(code=refused.code, msg=str(refused)))
        except _Ended as ended:
            self.send(ended.closed)
        except OSError as error:
            number = error.errno or errno.EIO
            self.send(Closed(_CODES.get(number, "io-error"), os.strerror(number)))


def list_directory(channel: socket.socket, path: str) -> None:
    """Answers ``Files``."""
    peer = _Peer(channel)
    with peer.serving():
        place = _within_home(path)
        entries: list[FileEntry] = []
        errors = ""
        try:
            with os.scandir(place) as found:
                for entry in found:
                    if len(entries) >= _MAX_ENTRIES:
                        errors = f"only {_MAX_ENTRIES} of the files are listed\n"
                        break
                    with suppress(FileNotFoundError):  # gone since
                        entries.append(_describe(entry))
        except OSError as error:
            errors = f"{path}: {os.strerror(error.errno or errno.EIO)}\n"
        entries.sort(key=lambda entry: entry.filename)
        peer.answer(wire.Files(listing=FileListing(path=path, entries=tuple(entries), errors=errors)))


def _describe(entry: os.DirEntry[str]) -> FileEntry:
    status = entry.stat(follow_symlinks=False)
    return FileEntry(
        filename=entry.name.encode(errors="replace").decode(),
        mode=stat.filemode(status.st_mode),
        size=status.st_size,
        ctime=status.st_ctime,
        mtime=status.st_mtime,
        atime=status.st_atime,
    )


def store(channel: socket.socket, path: str, room: int) -> None:
    """Answers ``StreamOpened``, then takes a file of at most ``room`` bytes."""
    peer = _Peer(channel)
    with peer.serving():
        target = _upload_place(path)
        fresh = os.path.join(os.path.dirname(target), _UPLOADING + secrets.token_hex(8))
        handle = _opened(fresh, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(handle, "wb") as file:
                peer.answer(wire.StreamOpened())
                _take(peer, file, room)
            os.replace(fresh, target)
        except BaseException:
            os.unlink(fresh)
            raise
        peer.send(Closed())


def _upload_place(path: str) -> str:
    """Where the file will be; parents are made. Raises :class:`StreamRefused`."""
    plain = _plain(path)
    parent = _within_home(os.path.dirname(plain), path)
    target = os.path.join(parent, os.path.basename(plain))
    if plain == HOME_INSIDE or os.path.isdir(target):
        raise StreamRefused("forbidden-path", f"{path}: is a directory")
    if os.path.lexists(target) and not os.path.isfile(target) and not os.path.islink(target):
        raise StreamRefused("forbidden-path", f"{path}: is no regular file")
    try:
        os.makedirs(parent, exist_ok=True)
    except OSError as error:
        raise _refusal(error, path) from error
    return target


def _take(peer: _Peer, file: BinaryIO, room: int) -> None:
    while not isinstance(frame := peer.receive(), Eof):
        if not isinstance(frame, Data):
            raise _Ended(Closed("aborted"))
        room -= len(frame.payload)
        if room < 0:
            raise _Ended(Closed("too-large", "more than there is disk space for"))
        file.write(frame.payload)


def fetch(channel: socket.socket, path: str) -> None:
    """Answers ``StreamOpened``, then sends the bytes of one regular file."""
    peer = _Peer(channel)
    with peer.serving(), open(_open_regular(path), "rb") as file:
        peer.answer(wire.StreamOpened())
        while data := file.read(CHUNK_BYTES):
            peer.send(Data(data))
        peer.send(Closed())


def fetch_archive(channel: socket.socket, paths: tuple[str, ...]) -> None:
    """Answers ``StreamOpened``, then sends a tar of files and directories."""
    peer = _Peer(channel)
    with peer.serving():
        if not 0 < len(paths) <= _MAX_PATHS:
            raise StreamRefused("bad-request", f"between 1 and {_MAX_PATHS} paths, please")
        places = [_archivable(path) for path in paths]
        peer.answer(wire.StreamOpened())
        archive = _Archive(peer)
        for place in places:
            archive.add_tree(place)
        archive.close()
        peer.send(Closed())


def _archivable(path: str) -> str:
    place = _within_home(path)
    try:
        mode = os.stat(place, follow_symlinks=False).st_mode
    except OSError as error:
        raise _refusal(error, path) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise StreamRefused("forbidden-path", f"{path}: neither a regular file nor a directory")
    return place


class _Archive:
    """A tar that holds regular files, directories, and links that stay within what is named; no other."""

    def __init__(self, peer: _Peer) -> None:
        self._tar = tarfile.open(fileobj=peer, mode="w|", bufsize=CHUNK_BYTES, format=tarfile.PAX_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115
        self._left = _MAX_ARCHIVE

    def add_tree(self, top: str) -> None:
        base = os.path.dirname(top)
        self._add(top, base, top)
        for folder, directories, files in os.walk(top):
            for name in sorted(directories + files):
                self._add(os.path.join(folder, name), base, top)

    def _add(self, path: str, base: str, top: str) -> None:
        name = os.path.relpath(path, base)
        # What changed since it was listed is left out, and what may not be read.
        with suppress(FileNotFoundError, PermissionError):
            mode = os.stat(path, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                self._add_link(path, name, top)
            elif stat.S_ISDIR(mode):
                self._tar.addfile(self._tar.gettarinfo(path, name))
            elif stat.S_ISREG(mode):
                self._add_file(path, name)

    def _add_link(self, path: str, name: str, top: str) -> None:
        target = os.readlink(path)
        # Another would be refused, with all the rest, by whoever unpacks with care.
        if not os.path.isabs(target) and _is_below(_joined(os.path.dirname(path), target), top):
            self._tar.addfile(self._tar.gettarinfo(path, name))

    def _add_file(self, path: str, name: str) -> None:
        with open(os.open(path, os.O_RDONLY | _NOT_FOLLOWED), "rb") as file:
            info = self._tar.gettarinfo(arcname=name, fileobj=file)
            if not info.isreg():  # a hard link to what is in the archive already, or changed under us
                if info.islnk():
                    self._tar.addfile(info)
                return
            self._left -= info.size
            if self._left < 0:
                raise _Ended(Closed("too-large", "more than can be taken out at once"))
            self._tar.addfile(info, _Steady(file, info.size))

    def close(self) -> None:
        self._tar.close()


class _Steady:
    """A file that has the size it was announced with, even when it shrinks meanwhile."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        wanted = min(size, self._left)
        self._left -= wanted
        return self._file.read(wanted).ljust(wanted, b"\0")


# -- paths ---------------------------------------------------------------------------------------------------


def _within_home(path: str, named: str | None = None) -> str:
    """The true place of ``path``. Raises :class:`StreamRefused` when that is not in the home directory."""
    place = os.path.realpath(_plain(path))
    if not _is_below(place, os.path.realpath(HOME_INSIDE)):
        raise StreamRefused("forbidden-path", f"{named or path}: leads out of the home directory")
    return place


def _plain(path: str) -> str:
    if "\0" in path or len(path) > _MAX_PATH:
        raise StreamRefused("forbidden-path", "not a path")
    plain = _joined(HOME_INSIDE, path)
    if not _is_below(plain, HOME_INSIDE):
        raise StreamRefused("forbidden-path", f"{path}: outside of the home directory")
    return plain


def _joined(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(folder, path))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _open_regular(path: str) -> int:
    handle = _opened(_within_home(path), path, os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise StreamRefused("forbidden-path", f"{path}: is no regular file")
    return handle


def _opened(place: str, path: str, flags: int) -> int:
    try:
        return os.open(place, flags | _NOT_FOLLOWED, 0o644)
    except OSError as error:
        raise _refusal(error, path) from error


def _refusal(error: OSError, path: str) -> StreamRefused:
    code = _CODES.get(error.errno or errno.EIO, "io-error")
    return StreamRefused(code, f"{path}: {os.strerror(error.errno or errno.EIO)}")
