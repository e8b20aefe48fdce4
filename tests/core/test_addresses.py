"""Where users cannot send us."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from backendai.core.addresses import why_forbidden


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
    ],
)
def test_forbidden(address: str) -> None:
    assert why_forbidden(address)


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "172.16.0.1", "192.168.1.1", "8.8.8.8", "2001:db9::1", "fd12::1", "::ffff:8.8.8.8"],
)
def test_allowed(address: str) -> None:
    assert why_forbidden(address) is None


def test_exceptions() -> None:
    allowed = [ip_network("127.0.0.0/8"), ip_network("fe80::/10")]
    assert why_forbidden("127.0.0.1", allowed) is None
    assert why_forbidden("::ffff:127.0.0.1", allowed) is None
    assert why_forbidden("fe80::1", allowed) is None
    assert why_forbidden("::1", allowed) == "loopback"
    assert why_forbidden("169.254.169.254", allowed) == "link-local"


def test_names_are_no_addresses() -> None:
    with pytest.raises(ValueError, match="localhost"):
        why_forbidden("localhost")
