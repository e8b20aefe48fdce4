"""Images of the process engine: the Jupyter kernelspecs installed on this host."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from jupyter_core.paths import jupyter_path

from backendai.agent.apps import SYSTEM_PROGRAMS, DeclaredApp, find_apps
from backendai.core.kernel import ImageSpec, ServiceSpec
from backendai.runner import native_kernels, python_kernel

log = structlog.get_logger(__name__)

#: The image that is always there: this interpreter with the ipykernel we depend on.
OWN_PYTHON = f"local/python:{sys.version_info.major}.{sys.version_info.minor}-jupyter"
_OWN_KERNELSPEC = "python3"
#: Runs in the kernel; the text of a JSON object of strings is a Python expression too.
_PYTHON_ENVIRONMENT = "__import__('os').environ.update({json})"
_MAX_SPEC_BYTES = 1 << 20
#: Our own kernels of other languages: name, language, and the program without which there is none.
_NATIVE = (("bash", "bash", "bash"), ("c", "c", "gcc"), ("cpp", "c++", "g++"))


class _OurMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    apps: tuple[DeclaredApp, ...] = ()


class _Metadata(msgspec.Struct, frozen=True):
    backendai: _OurMetadata = _OurMetadata()


class _KernelJson(msgspec.Struct, frozen=True):
    """The part of Jupyter's ``kernel.json`` that we need."""

    argv: tuple[str, ...]
    language: str = ""
    env: dict[str, str] = {}
    interrupt_mode: Literal["signal", "message"] = "signal"
    metadata: _Metadata = _Metadata()


def installed_images() -> dict[str, ImageSpec]:
    """By canonical reference. A kernelspec that cannot be read is logged and left out."""
    own = [_own_python(), *_own_native()]
    images = {image.canonical: image for image in own}
    seen = {image.kernelspec for image in own}
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
        argv=(sys.executable, str(python_kernel.LAUNCHER), "-f", "{connection_file}"),
        resource_dir=str(python_kernel.DIRECTORY),
        env_snippet=_PYTHON_ENVIRONMENT,
        services=_own_services(),
    )


def _own_services() -> tuple[ServiceSpec, ...]:
    return find_apps((Path(sys.prefix),), sys.executable)


def _own_native() -> list[ImageSpec]:
    services = _own_services()
    return [
        ImageSpec(
            canonical=f"local/{name}:system",
            kernelspec=name,
            language=language,
            argv=(sys.executable, str(native_kernels.LAUNCHER), name, "-f", "{connection_file}"),
            resource_dir=str(native_kernels.DIRECTORY),
            services=services,
        )
        for name, language, program in _NATIVE
        if shutil.which(program, path=SYSTEM_PROGRAMS) is not None
    ]


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
        services=find_apps(
            _prefixes_of(spec.argv[0]), spec.argv[0], spec.metadata.backendai.apps, str(path.parent)
        ),
    )


def _prefixes_of(program: str) -> tuple[Path, ...]:
    """Where the packages of an interpreter are; nowhere we can tell for a mere name."""
    path = Path(program)
    return (path.parent.parent, path.resolve().parent.parent) if path.is_absolute() else ()
