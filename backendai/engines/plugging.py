"""The network of a session's kernels on a host: a switch in a namespace of its own, a cable to each kernel.

As an ordinary user, the switch belongs to a user namespace in which we may do what root may, and the
kernels' own user namespaces are made below that one: nothing outside is touched or needed. As root it
belongs to nobody else. Nothing has a way out: there are no routes, and no process lives where the switch is.

What must be done in a process of one thread is done here: by the child that becomes the sandbox, and by
this module as a program, which answers with handles. So it imports little.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from backendai.core.cluster import NETWORK, NetworkPaths, address_of, mac_of
from backendai.engines.namespaces import NEW_NETWORK, NEW_USER, enter, unshare
from backendai.engines.netlink import RouteSocket

_SWITCH = "switch"
#: The cable for what lies on other hosts: its port, and the end that is read and written from here.
_TRUNK, _TAP = "trunk", "tap"
_INSIDE = "eth0"
#: From linux/socket.h, if_packet.h and if_ether.h.
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_EVERY_PROTOCOL = 0x0003
_RECEIVE_BUFFER = 4 << 20


@dataclass(frozen=True, slots=True)
class SessionNetwork:
    """Open handles of the namespaces. The network goes with the last process that has such ones."""

    net: int
    #: The user namespace it belongs to, unless that is our own.
    owner: int | None = None

    @classmethod
    def open(cls, paths: NetworkPaths) -> SessionNetwork:
        """Handles of our own, for those of another process. Raises :class:`OSError`."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        net = os.open(paths.net, flags)
        try:
            return cls(net, None if paths.owner is None else os.open(paths.owner, flags))
        except OSError:
            os.close(net)
            raise

    def handles(self) -> list[int]:
        """In the order in which they are entered."""
        return [self.net] if self.owner is None else [self.owner, self.net]

    @property
    def paths(self) -> NetworkPaths:
        """For others to open, while this process lives."""
        *owner, net = (f"/proc/{os.getpid()}/fd/{handle}" for handle in self.handles())
        return NetworkPaths(net=net, owner=owner[0] if owner else None)

    def close(self) -> None:
        for handle in self.handles():
            os.close(handle)


@dataclass(frozen=True, slots=True)
class Seat:
    """A kernel's place in the network; ``names`` are those of all its kernels, in order."""

    network: SessionNetwork
    place: int
    names: tuple[str, ...]


def take_seat(seat: Seat) -> None:
    """Move this process into a network namespace that has nothing but its cable. Raises :class:`OSError`."""
    for handle in seat.network.handles():
        enter(handle)
    port = f"port{seat.place}"
    with RouteSocket() as switch:
        try:
            switch.remove(port)  # the end of the kernel that was here before may take its time
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        unshare(NEW_NETWORK)
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        switch.add_veth(port, _INSIDE, namespace=own, mac=mac_of(seat.place))
        os.close(own)
        with RouteSocket() as inside:
            inside.set_up("lo")
            inside.set_up(_INSIDE)
            inside.add_address(_INSIDE, address_of(seat.place), NETWORK.prefixlen)
        switch.plug(port, _SWITCH)


# -- the program ---------------------------------------------------------------------------------------------


def _make() -> list[int]:
    """A new network: the handle of its user namespace, if it has one of its own, and of itself."""
    names = ["net"]
    if os.geteuid() == 0:
        unshare(NEW_NETWORK)
    else:
        uid, gid = os.geteuid(), os.getegid()
        unshare(NEW_USER | NEW_NETWORK)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        names = ["user", "net"]
    with RouteSocket() as switch:
        switch.add_bridge(_SWITCH)
        switch.set_up(_SWITCH)
        switch.add_veth(_TRUNK, _TAP)
        switch.plug(_TRUNK, _SWITCH)
        switch.set_up(_TAP)
    return [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names]


def _tap(handles: list[int]) -> list[int]:
    """A socket for the frames between the switch and what lies on other hosts."""
    for handle in handles:
        enter(handle)
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    # Frames are passed on as they are kept: large, with the sums and the cutting left to who delivers them.
    tap.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    tap.bind((_TAP, _EVERY_PROTOCOL))
    return [tap.detach()]


def main(channel: int, handles: list[int]) -> None:
    """Answer on ``channel`` with what was asked for: a tap of the network given, or a new network."""
    with socket.socket(fileno=channel) as answers:
        made = _tap(handles) if handles else _make()
        socket.send_fds(answers, [struct.pack("=B", len(made))], made)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    try:
        if given:
            main(given[0], given[1:])
        else:  # only to see whether it can be done
            _make()
    except OSError as error:
        sys.exit(str(error))
