"""The few requests of rtnetlink(7) that join kernels to a network: links, a bridge, addresses.

Own code because it runs where no library fits: in the child between fork and exec, and as part of a runner
of some megabytes. Plain and synchronous. Everything raises :class:`OSError` with what the kernel said.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address

_NLMSG = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_BYTES = 8192

_NLMSG_ERROR = 2
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_NEWADDR = 16, 17, 18, 20
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 10, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NESTED = 0x8000


class RouteSocket:
    """Requests about the network namespace in which it was made, wherever its user goes afterwards."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        # Answers come before the request returns; nobody should wait for one that does not.
        self._socket.settimeout(10)

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def add_bridge(self, name: str) -> None:
        info = _attribute(_IFLA_INFO_KIND, b"bridge")
        self._new_link(name, _attribute(_IFLA_LINKINFO | _NESTED, info))

    def add_veth(
        self, name: str, other: str, *, namespace: int | None = None, mac: bytes | None = None
    ) -> None:
        """A cable from ``name`` here to ``other``, there being ``namespace`` if it is elsewhere.

        ``mac`` is the address of ``other``.
        """
        there = _link(other)
        if mac is not None:
            there += _attribute(_IFLA_ADDRESS, mac)
        if namespace is not None:
            there += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace))
        info = _attribute(_IFLA_INFO_KIND, b"veth") + _attribute(
            _IFLA_INFO_DATA | _NESTED, _attribute(_VETH_INFO_PEER | _NESTED, there)
        )
        self._new_link(name, _attribute(_IFLA_LINKINFO | _NESTED, info))

    def remove(self, name: str) -> None:
        self._request(_RTM_DELLINK, 0, _link(name))

    def plug(self, name: str, bridge: str) -> None:
        """Make a link a port of the bridge, and let it carry."""
        master = _attribute(_IFLA_MASTER, struct.pack("=I", self._index(bridge)))
        self._request(_RTM_NEWLINK, 0, _link(name, up=True) + master)

    def set_up(self, name: str) -> None:
        self._request(_RTM_NEWLINK, 0, _link(name, up=True))

    def add_address(self, name: str, address: IPv4Address, prefix: int) -> None:
        head = _IFADDR.pack(socket.AF_INET, prefix, 0, 0, self._index(name))
        local = _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
        self._request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, head + local)

    def _index(self, name: str) -> int:
        """Of the namespace asked, which ``socket.if_nametoindex`` would not."""
        index: int = _IFINFO.unpack_from(self._request(_RTM_GETLINK, 0, _link(name)))[2]
        return index

    def _new_link(self, name: str, attribute: bytes) -> None:
        self._request(_RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, _link(name) + attribute)

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        """What was answered, less its head; where there is only an acknowledgement, that."""
        acknowledge = 0 if kind == _RTM_GETLINK else _NLM_F_ACK
        head = _NLMSG.pack(_NLMSG.size + len(body), kind, _NLM_F_REQUEST | acknowledge | flags, 1, 0)
        self._socket.send(head + body)
        answer = self._socket.recv(_ANSWER_BYTES)
        (code,) = struct.unpack_from("=i", answer, _NLMSG.size)
        if _NLMSG.unpack_from(answer)[1] == _NLMSG_ERROR and code != 0:
            raise OSError(-code, os.strerror(-code))
        return answer[_NLMSG.size :]


def _link(name: str, *, up: bool = False) -> bytes:
    state = _IFF_UP if up else 0
    return _IFINFO.pack(socket.AF_UNSPEC, 0, 0, state, state) + _attribute(
        _IFLA_IFNAME, name.encode() + b"\0"
    )


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)
