"""The places of an installation: the directory that is kept, the one for its sockets, its ports."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Sockets of ours have names of up to 40 characters; the kernel takes paths of up to 107.
_LONGEST_RUNTIME_PATH = 60


class PlaceTaken(Exception):
    """Another process holds the directory."""

    def __init__(self, directory: Path, holder: str) -> None:
        self.directory = directory
        self.holder = holder
        super().__init__(f"{directory} is in use by process {holder}")


class PlaceUnfit(Exception):
    """A directory cannot be made, or is not ours alone; says which and why."""


@contextmanager
def claim_directory(directory: Path) -> Iterator[None]:
    """Make the directory where missing and hold it for the length of the body, this process alone.

    The claim ends with the process, however it ends. Raises :class:`PlaceTaken`, :class:`PlaceUnfit`.
    """
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PlaceUnfit(f"{directory} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            raise PlaceTaken(directory, holder or "unknown") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


@contextmanager
def open_runtime_directory(directory: Path) -> Iterator[Path]:
    """A directory with a short path for the sockets of the installation in ``directory``; gone after the
    body.

    Its path is always the same for one ``directory``, whose holder calls this: what a killed predecessor
    left is removed, and so is what any other left that no longer runs. Others may pass through it but not
    list it. Raises :class:`PlaceUnfit`.
    """
    _remove_what_is_left(_runtime_base())
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    place, hold = _make_runtime_place(name)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(hold)
        with suppress(OSError):  # another installation has its own in it
            place.parent.rmdir()


def _make_runtime_place(name: str) -> tuple[Path, int]:
    """The directory, empty, and a handle that holds it for as long as this process lives."""
    for _ in range(10):
        place = _runtime_base() / name
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir(mode=0o711)
        except FileNotFoundError:
            continue  # an installation that stopped took the empty directory above with it
        except OSError as error:
            raise PlaceUnfit(f"{place} cannot be made: {error.strerror}") from None
        if (hold := _hold(place)) is not None:
            return place, hold
    raise PlaceUnfit(f"{place} cannot be made: it vanishes")


def _hold(place: Path) -> int | None:
    """Hold a directory against those who tidy up; None when one of them came first."""
    with suppress(FileNotFoundError, BlockingIOError):
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), place.lstat()):
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
    return None


def _remove_what_is_left(base: Path) -> None:
    """Remove runtime directories that nobody holds and in which nobody listens."""
    listening = Path("/proc/net/unix").read_text()
    for place in base.iterdir():
        if f" {place}/" not in listening and (handle := _hold(place)) is not None:
            shutil.rmtree(place, ignore_errors=True)
            os.close(handle)


def port_problem(address: str, port: int) -> str:
    """Why one cannot listen there; empty when one can. Port 0 is any free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _runtime_base() -> Path:
    """The directory above all runtime directories of this user, made where missing."""
    uid = os.geteuid()
    wanted = [Path("/run/backendai")] if uid == 0 else []
    if os.environ.get("XDG_RUNTIME_DIR"):
        wanted.append(Path(os.environ["XDG_RUNTIME_DIR"], "backendai"))
    wanted += [Path(tempfile.gettempdir(), f"backendai-{uid}"), Path(f"/tmp/backendai-{uid}")]  # noqa: S108
    reasons = []
    for base in wanted:
        if len(os.fsencode(base)) > _LONGEST_RUNTIME_PATH:
            continue
        try:
            base.mkdir(mode=0o711, exist_ok=True)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror}")
            continue
        if _is_ours(base):
            return base
        reasons.append(f"{base}: belongs to somebody else")
    raise PlaceUnfit("no directory for sockets: " + "; ".join(reasons))


def _is_ours(path: Path) -> bool:
    """Whether nobody else can put anything into it. A link would be followed to where others choose."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
