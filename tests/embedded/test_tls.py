from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backendai.embedded.tls import RENEW_BEFORE, ensure_certificate

_NOW = datetime.now(UTC)


def test_a_certificate_is_kept_until_it_nears_its_end(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "tls", now=_NOW)
    chain, authority = files.chain.read_bytes(), files.authority.read_bytes()
    ensure_certificate(tmp_path / "tls", now=_NOW + timedelta(days=300))
    assert files.chain.read_bytes() == chain
    ensure_certificate(tmp_path / "tls", now=_NOW + timedelta(days=365) - RENEW_BEFORE)
    assert files.chain.read_bytes() != chain
    assert files.authority.read_bytes() == authority, "those who trust it need not be told"


def test_another_name_needs_another_certificate(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path, now=_NOW)
    chain = files.chain.read_bytes()
    ensure_certificate(tmp_path, now=_NOW, names=("10.1.2.3",))
    assert files.chain.read_bytes() != chain


def test_servers_and_clients_can_use_it_and_others_cannot_read_it(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "tls", now=_NOW)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.chain, files.key)
    ssl.create_default_context(cafile=str(files.authority))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "tls").iterdir())
