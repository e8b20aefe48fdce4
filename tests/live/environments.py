"""Virtual environments for programs that must not share ours: kept in the user's cache, made on first use."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import platformdirs


class CannotInstall(Exception):
    """What was asked for could not be installed; the text is pip's last words."""


def environment(name: str, python: Path, requirements: Path, constraints: Path | None = None) -> Path:
    """Directory of an environment of ``python`` with what the file ``requirements`` names.

    ``constraints`` bounds versions even of what pip needs to build. An environment is named after all it was
    made from. Safe to call from several processes at once. Raises :class:`CannotInstall`.
    """
    origin = b"".join(
        [
            f"{python.resolve()}\n".encode(),
            requirements.read_bytes(),
            constraints.read_bytes() if constraints else b"",
        ]
    )
    cache = platformdirs.user_cache_path("backendai-tests")
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"{name}-{hashlib.sha256(origin).hexdigest()[:12]}"
    with (cache / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = home / "complete"
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            _run([str(python), "-m", "venv", str(home)])
            pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
            # PIP_CONSTRAINT, unlike -c, also reaches the environments in which pip builds old source packages
            more = {} if constraints is None else {"PIP_CONSTRAINT": str(constraints)}
            _run([*pip, "install", "-r", str(requirements)], **more)
            complete.touch()
    return home


def _run(command: list[str], **environ: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        raise CannotInstall("\n".join((done.stderr or done.stdout).splitlines()[-8:]))
