"""Where the kernels of a cluster session find each other.

A kernel's place in the cluster (main1 is 0, sub1 is 1, ...) tells its addresses, so that nobody has to hand
them out. They mean something in the session's own network only, which leads nowhere else.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import msgspec

#: More addresses than a session can have kernels.
NETWORK = IPv4Network("10.128.0.0/20")
#: Locally administered.
_MAC_PREFIX = bytes((0x02, 0xBA, 0, 0))


class ClusterPeer(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that has kernels of the session: where it takes their frames, and its CURVE public key."""

    endpoint: str
    public_key: str


class ClusterMember(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of the session, for the agent of another or the same one."""

    hostname: str
    #: ``None`` when it is on the same agent.
    peer: ClusterPeer | None = None


class NetworkPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where processes of this user find the open handles of a session's network, below /proc."""

    net: str
    #: The user namespace it belongs to, unless it belongs to the host's.
    owner: str | None = None


def address_of(place: int) -> IPv4Address:
    return NETWORK[place + 1]


def mac_of(place: int) -> bytes:
    return _MAC_PREFIX + place.to_bytes(2, "big")


def place_of(mac: bytes) -> int | None:
    """The kernel that has this address; None for one that is nobody's, such as a broadcast."""
    return int.from_bytes(mac[4:], "big") if mac[:4] == _MAC_PREFIX else None
