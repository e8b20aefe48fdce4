"""Images of the process engine: the Jupyter kernelspecs installed on this host."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from jupyter_core.paths import jupyter_path

from backendai.core.kernel import ImageSpec
from backendai.runner.python_kernel import DIRECTORY, LAUNCHER

log = structlog.get_logger(__name__)

#: The image that is always there: this interpreter with the ipykernel we depend on.
OWN_PYTHON = f"local/python:{sys.version_info.major}.{sys.version_info.minor}-jupyter"
_OWN_KERNELSPEC = "python3"
#: Runs in the kernel; the text of a JSON object of strings is a Python expression too.
_PYTHON_ENVIRONMENT = "__import__('os').environ.update({json})"
_MAX_SPEC_BYTES = 1 << 20


class _KernelJson(msgspec.Struct, frozen=True):
    """The part of Jupyter's ``kernel.json`` that we need."""

    argv: tuple[str, ...]
    language: str = ""
    env: dict[str, str] = {}
    interrupt_mode: Literal["signal", "message"] = "signal"


def installed_images() -> dict[str, ImageSpec]:
    """By canonical reference. A kernelspec that cannot be read is logged and left out."""
    images = {OWN_PYTHON: _own_python()}
    seen = {_OWN_KERNELSPEC}
    for folder in jupyter_path("kernels"):
        for path in sorted(Path(folder).glob("*/kernel.json")):
            name = path.parent.name.lower()
            if name in seen:  # an earlier folder of the path wins
                continue
            seen.add(name)
            if (image := _read(name, path)) is not None:
                images[image.canonical] = image
    return images


def choose_warm(images: Mapping[str, ImageSpec], kernelspecs: tuple[str, ...]) -> list[ImageSpec]:
    """The images that get a pool: those named, or our own Python when none is. Raises :exc:`ValueError`."""
    chosen = []
    for name in kernelspecs or (_OWN_KERNELSPEC,):
        image = next(
            (image for image in images.values() if name in (image.kernelspec, image.canonical)), None
        )
        if image is None:
            raise ValueError(f"no kernelspec {name!r} is installed")
        if image.env_snippet is None:
            raise ValueError(
                f"kernelspec {name!r} cannot be kept warm: its environment is fixed at the start"
            )
        chosen.append(image)
    return chosen


def _own_python() -> ImageSpec:
    return ImageSpec(
        canonical=OWN_PYTHON,
        kernelspec=_OWN_KERNELSPEC,
        language="python",
        argv=(sys.executable, str(LAUNCHER), "-f", "{connection_file}"),
        resource_dir=str(DIRECTORY),
        env_snippet=_PYTHON_ENVIRONMENT,
    )


def _read(name: str, path: Path) -> ImageSpec | None:
    try:
        with path.open("rb") as file:
            spec = msgspec.json.decode(file.read(_MAX_SPEC_BYTES), type=_KernelJson)
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("agent.kernelspec-unreadable", path=str(path), error=str(error))
        return None
    if not spec.argv or not any("{connection_file}" in argument for argument in spec.argv):
        log.warning("agent.kernelspec-unusable", path=str(path), error="argv names no {connection_file}")
        return None
    language = re.sub(r"[^a-z0-9]+", "-", spec.language.lower()).strip("-") or "other"
    tag = re.sub(r"[^a-z0-9._-]+", "-", name).strip("._-") or "default"
    return ImageSpec(
        canonical=f"local/{language}:{tag}",
        kernelspec=name,
        language=language,
        argv=spec.argv,
        env=spec.env,
        resource_dir=str(path.parent),
        interrupt_mode=spec.interrupt_mode,
        env_snippet=_PYTHON_ENVIRONMENT if language == "python" else None,
    )
