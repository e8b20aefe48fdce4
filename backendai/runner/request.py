"""From the wish for a kernel to the sandbox it runs in, and from its end to words for a person. Pure but for
files.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from backendai.core.kernel import ImageSpec, KernelSpec
from backendai.engines.bubblewrap import outermost, visible_for
from backendai.engines.contract import HOME_INSIDE, SandboxFailed, SandboxRequest
from backendai.engines.plugging import Seat, SessionNetwork
from backendai.runner.channels import CONNECTION_FILE_INSIDE, IPC_DIRECTORY
from backendai.wire.runner import RunnerExit

#: The kernel's own files, relative to the runner's working directory.
HOME = "home"
#: Where clients look for the key of the session's SSH server.
KEY_FILE = "id_container"
_BOOTSTRAP = ".bootstrap.sh"
#: The kernel comes up whatever becomes of the script, so that its user can look into it; the log tells.
_AFTER_BOOTSTRAP = (
    f'/bin/sh ./{_BOOTSTRAP} || echo "The bootstrap script ended with exit code $?." >&2; exec "$@"'
)
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "HOME": HOME_INSIDE,
    "USER": "work",
    "LOGNAME": "work",
    "LANG": "C.UTF-8",
    "TERM": "xterm-256color",
    "TMPDIR": "/tmp",  # noqa: S108
}


def environment_of(spec: KernelSpec, image: ImageSpec) -> dict[str, str]:
    """What every process of the kernel gets. The programs beside the kernel's own are found first."""
    environ = {**_ENVIRONMENT, "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"}
    if os.path.isabs(image.argv[0]):
        environ["PATH"] = f"{os.path.dirname(image.argv[0])}:{environ['PATH']}"
    return {**environ, **image.env, **spec.environ}


def sandbox_request(
    spec: KernelSpec, image: ImageSpec, network: SessionNetwork | None, *, fresh: bool, strict: bool
) -> SandboxRequest:
    """What to ask of the engine. A bootstrap script is laid into the scratch and runs before the kernel.

    ``fresh``: no kernel has had the home directory. Raises :class:`SandboxFailed` for files elsewhere.
    """
    argv = tuple(
        word.replace("{connection_file}", CONNECTION_FILE_INSIDE).replace(
            "{resource_dir}", image.resource_dir
        )
        for word in image.argv
    )
    if spec.bootstrap_script:
        _lay_down(Path(HOME, _BOOTSTRAP), spec.bootstrap_script)
        argv = ("/bin/sh", "-c", _AFTER_BOOTSTRAP, "sh", *argv)
    return SandboxRequest(
        # The runner's pid tells whose leftovers these are, should it be killed.
        name=f"{spec.kernel_id}-{os.getpid()}",
        argv=argv,
        environ=environment_of(spec, image),
        hostname=spec.cluster_hostname,
        limits=spec.limits,
        network=spec.network and network is None,
        seat=None if network is None else _seat(spec, network),
        home=Path(HOME),
        ipc=Path(IPC_DIRECTORY),
        files=_first_files(spec) if fresh else (),
        visible=_visible(image),
        strict=strict,
    )


def _seat(spec: KernelSpec, network: SessionNetwork) -> Seat:
    names = tuple(member.hostname for member in spec.cluster)
    return Seat(network, names.index(spec.cluster_hostname), names)


def _visible(image: ImageSpec) -> tuple[Path, ...]:
    """What the kernel needs to see, and the servers that may be started beside it."""
    paths = [
        *visible_for(image.argv, image.resource_dir),
        *(path for service in image.services for path in visible_for(service.argv, "")),
        *(Path(path) for service in image.services for path in service.visible),
    ]
    return outermost(paths)


def _first_files(spec: KernelSpec) -> tuple[tuple[str, int, bytes], ...]:
    """The user's own, and the key with which the session's user is let in by its SSH server."""
    private, public = new_ssh_key()
    files = {KEY_FILE: (0o600, private), ".ssh/authorized_keys": (0o600, public)}
    for dotfile in spec.dotfiles:
        path = os.path.normpath(dotfile.path)
        if os.path.isabs(path) or path.split("/")[0] in ("..", "."):
            raise SandboxFailed("start-failed", f"dotfile outside of the home directory: {dotfile.path}")
        try:
            mode = int(dotfile.permission, 8) & 0o777
        except ValueError:
            raise SandboxFailed("start-failed", f"{path}: no permission: {dotfile.permission}") from None
        files[path] = (mode, dotfile.data.encode())
    return tuple((path, mode, data) for path, (mode, data) in files.items())


def new_ssh_key() -> tuple[bytes, bytes]:
    """A key pair in OpenSSH's format: private, public."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def _lay_down(path: Path, text: str) -> None:
    """Write a file that the kernel may read, where the kernel may already have put something else."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, 0o644)
        file.write(text)


def describe_end(exit: RunnerExit | None) -> str:
    """For the user whose run the end of the kernel cut short; ``None`` is a restart."""
    if exit is None:
        return "the kernel was restarted"
    words = {
        "out-of-memory": "the kernel was ended: out of memory",
        "disk-limit": "the kernel was ended: too much disk space in use",
        "self-terminated": f"the kernel exited with code {exit.exit_code}",
        "killed": "the kernel crashed",
        "start-failed": "the kernel could not be started",
    }
    text = words.get(exit.reason, f"the kernel was ended: {exit.reason}")
    return f"{text} ({exit.detail.splitlines()[0]})" if exit.detail else text


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {128 + number}"
