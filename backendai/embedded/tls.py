"""The TLS certificate of a one-command start, from a private authority that is kept beside it.

Clients trust it by trusting ``ca.pem``. The authority stays the same when the certificate is renewed.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

#: A certificate with less than this left is replaced at the next start.
RENEW_BEFORE = timedelta(days=30)
_VALID_FOR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM: the server's chain and private key, and the authority that clients may trust."""

    chain: Path
    key: Path
    authority: Path


def ensure_certificate(directory: Path, *, now: datetime, names: tuple[str, ...] = ()) -> Certificate:
    """Find the certificate in ``directory``, or make or renew it.

    It is good for ``localhost``, the loopback addresses, this host's name and ``names``, and replaced when
    one of these is missing from it.
    """
    wanted = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", socket.gethostname(), *names)))
    files = Certificate(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    if not _is_good(files, wanted, now):
        _issue(files, wanted, now)
    return files


def _is_good(files: Certificate, wanted: tuple[str, ...], now: datetime) -> bool:
    if not (files.chain.exists() and files.key.exists() and files.authority.exists()):
        return False
    served = x509.load_pem_x509_certificate(files.chain.read_bytes())
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    held = {str(name.value) for name in names}
    return held >= set(wanted) and _lasts(served, now) and _lasts(authority, now)


def _lasts(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc - now > RENEW_BEFORE


def _issue(files: Certificate, wanted: tuple[str, ...], now: datetime) -> None:
    import trustme  # slow to load, rarely needed

    directory = files.chain.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority_key = directory / "ca.key"
    if files.authority.exists() and authority_key.exists():
        held = x509.load_pem_x509_certificate(files.authority.read_bytes())
        keep = _lasts(held, now)
    else:
        keep = False
    if keep:
        authority = trustme.CA.from_pem(files.authority.read_bytes(), authority_key.read_bytes())
    else:
        authority = trustme.CA(organization_name="backendai", organization_unit_name=f"made {now:%Y-%m-%d}")
        _write(authority_key, authority.private_key_pem.bytes())
        _write(files.authority, authority.cert_pem.bytes())
    issued = authority.issue_cert(*wanted, common_name=wanted[0], not_after=now.astimezone(UTC) + _VALID_FOR)
    _write(files.key, issued.private_key_pem.bytes())
    _write(files.chain, b"".join(part.bytes() for part in issued.cert_chain_pems))


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".new")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    unfinished.replace(path)
