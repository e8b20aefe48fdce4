"""What a kernel is asked to be, and what is known of it."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

from backendai.core.cluster import ClusterMember

#: Run id of the startup command of a batch session.
STARTUP_RUN = "startup"
#: Why a kernel ended whose startup command has ended.
TASK_FINISHED = "task-finished"


class KernelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds the engine must hold a kernel to; what it cannot enforce it names in ``KernelFacts.isolation``.

    ``cpu`` in cores, everything else in bytes or counts.
    """

    cpu: float = 1.0
    memory: int = 1 << 30
    pids: int = 256
    open_files: int = 4096
    #: Size of one file, and of all files under the scratch directory together.
    disk: int = 4 << 30
    #: Console output of one run that is kept; the run is interrupted past it.
    output: int = 64 << 20


class ServicePort(msgspec.Struct, frozen=True, kw_only=True):
    """A server that a kernel can run, as the API names it. ``protocol``: ``tcp``, ``http`` or ``preopen``."""

    name: str
    protocol: str
    ports: tuple[int, ...]


class ServiceSpec(ServicePort, frozen=True, kw_only=True):
    """How to start a server: ``argv`` has ``{port}`` where its port belongs."""

    argv: tuple[str, ...]
    #: Host directories it needs to see.
    visible: tuple[str, ...] = ()


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the process engine: an installed Jupyter kernelspec.

    ``argv`` has ``{connection_file}`` where Jupyter's kernelspec format has it. ``env_snippet`` is a template
    in the image's own language that sets environment variables in a running kernel from the JSON text
    ``{json}``; only images that have one can be served from the warm pool.
    """

    canonical: str
    kernelspec: str
    language: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    resource_dir: str = ""
    interrupt_mode: str = "signal"
    env_snippet: str | None = None
    #: Servers that a kernel of the image can run beside it.
    services: tuple[ServiceSpec, ...] = ()


class Dotfile(msgspec.Struct, frozen=True, kw_only=True):
    """A file its user wants in every kernel: ``path`` from the home directory, ``permission`` in octal."""

    path: str
    permission: str
    data: str


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that an agent must know to start one kernel. Environment values may be secret: never log them."""

    kernel_id: UUID
    session_id: UUID
    session_name: str
    image: str
    environ: dict[str, str] = {}
    limits: KernelLimits = KernelLimits()
    #: Bit-for-bit what the session was granted; the agent checks it against what it has free.
    slots: dict[str, str] = {}
    network: bool = False
    #: Shell script to run before the kernel starts.
    bootstrap_script: str | None = None
    #: Shell command of a batch session: run as :data:`STARTUP_RUN` once the kernel is ready; its end is the
    #: kernel's, with its exit code and the reason :data:`TASK_FINISHED`.
    startup_command: str | None = None
    #: Written before the bootstrap script runs.
    dotfiles: tuple[Dotfile, ...] = ()
    #: Ports on which the user's own programs will listen.
    preopen_ports: tuple[int, ...] = ()
    cluster_role: str = "main"
    cluster_idx: int = 1
    cluster_hostname: str = "main1"
    #: All kernels of the session, main1 first, when it has several: they are given a network of their own
    #: then, whatever ``network`` says.
    cluster: tuple[ClusterMember, ...] = ()


class KernelPhase(StrEnum):
    """What an agent knows of a kernel; the manager's richer status is in ``core.session``."""

    CREATING = "creating"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXITED = "exited"


class KernelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel as its agent has it; ``isolation`` as in ``{"memory": "cgroup1"}``, what is in force."""

    kernel_id: UUID
    session_id: UUID
    phase: KernelPhase
    image: str
    slots: dict[str, str] = {}
    isolation: dict[str, str] = {}
    warm: bool = False
    #: From the create call to RUNNING, per phase, in milliseconds.
    timings: dict[str, float] = {}
    exit_code: int | None = None
    exit_reason: str | None = None
    service_ports: tuple[ServicePort, ...] = ()


class KernelStat(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement; names as in contract 02 §6.3. Units: ms, bytes, percent of one core."""

    cpu_used: float = 0.0
    cpu_util: float = 0.0
    mem: int = 0
    mem_max: int = 0
    io_read: int = 0
    io_write: int = 0
    pids: int = 0
    scratch: int = 0
    busy: bool = False
