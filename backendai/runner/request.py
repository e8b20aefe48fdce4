"""From the wish for a kernel to the sandbox it runs in, and from its end to words for a person. Pure but for
files.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from backendai.core.kernel import ImageSpec, KernelSpec
from backendai.engines.bubblewrap import visible_for
from backendai.engines.contract import HOME_INSIDE, SandboxRequest
from backendai.runner.channels import CONNECTION_FILE_INSIDE, IPC_DIRECTORY
from backendai.wire.runner import RunnerExit

#: The kernel's own files, relative to the runner's working directory.
HOME = "home"
_BOOTSTRAP = ".bootstrap.sh"
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


def sandbox_request(spec: KernelSpec, image: ImageSpec, *, strict: bool) -> SandboxRequest:
    """What to ask of the engine. A bootstrap script is laid into the scratch and runs before the kernel."""
    argv = tuple(
        word.replace("{connection_file}", CONNECTION_FILE_INSIDE).replace(
            "{resource_dir}", image.resource_dir
        )
        for word in image.argv
    )
    if spec.bootstrap_script:
        _lay_down(Path(HOME, _BOOTSTRAP), spec.bootstrap_script)
        argv = ("/bin/sh", "-c", f'/bin/sh ./{_BOOTSTRAP}; exec "$@"', "sh", *argv)
    return SandboxRequest(
        # The runner's pid tells whose leftovers these are, should it be killed.
        name=f"{spec.kernel_id}-{os.getpid()}",
        argv=argv,
        environ=environment_of(spec, image),
        hostname=spec.cluster_hostname,
        limits=spec.limits,
        network=spec.network,
        home=Path(HOME),
        ipc=Path(IPC_DIRECTORY),
        visible=visible_for(image.argv, image.resource_dir),
        strict=strict,
    )


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
