"""Which addresses this service may be sent to by its users: what is meant for itself and its host is not.

A user who names a URL chooses where we connect to, from inside our network. Loopback, link-local and the
addresses where clouds hand out credentials are never meant for that; other private networks are, for an
installation whose receivers live in one.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Metadata services of clouds that are not link-local.
_METADATA = frozenset(
    ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
#: IPv6 networks in which the last 32 bits are an IPv4 address.
_TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("::/96"))


def why_forbidden(text: str, allowed: Iterable[Network] = ()) -> str | None:
    """What is wrong with connecting to a numeric address for a user; None if nothing is.

    ``allowed`` networks are exempt. Raises ValueError for what is no address.
    """
    address = _meant(ip_address(text.partition("%")[0]))
    if any(address.version == network.version and address in network for network in allowed):
        return None
    if address in _METADATA:
        return "a metadata service"
    for what, wrong in (
        ("unspecified", address.is_unspecified),
        ("loopback", address.is_loopback),
        ("link-local", address.is_link_local),
        ("multicast", address.is_multicast),
        ("reserved", address.is_reserved),
    ):
        if wrong:
            return what
    if isinstance(address, IPv4Address) and address in ip_network("0.0.0.0/8"):
        return "reserved"
    return None


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address wraps, in whatever way."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if int(address) > 1 and any(address in network for network in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
