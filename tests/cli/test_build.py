"""From options to the settings of the parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backendai.cli import catalogue as c
from backendai.cli.build import agent_settings, gateway_settings, up_settings
from backendai.cli.options import BadOption, Settings, resolve
from backendai.embedded.keys import EnrolledKeys, new_key_pair, write_agent_keys

Given = Callable[..., Settings]


@pytest.fixture
def given(tmp_path: Path) -> Given:
    def resolved(**environ: object) -> Settings:
        environ.setdefault("manager_keys", tmp_path / "manager.json")
        environ.setdefault("agent_dir", tmp_path / "agent")
        variables = {f"BACKEND_{name.upper()}": str(value) for name, value in environ.items()}
        return resolve(c.ALL, flags={}, environ=variables, known=c.ALL)

    return resolved


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    paths = {"ssl_cert": tmp_path / "cert.pem", "ssl_key": tmp_path / "key.pem"}
    for path in paths.values():
        path.touch()
    return paths


def test_a_gateway_without_options_serves_plain_http_on_loopback(given: Given) -> None:
    settings = gateway_settings(given())
    assert (settings.service_ip, settings.http_port, settings.https_port) == ("127.0.0.1", 8080, None)
    assert settings.manager.database_url.reveal() == "postgresql://backendai@127.0.0.1:5432/backendai"
    assert settings.manager.redis_url.reveal() == "redis://127.0.0.1:6379"
    assert settings.manager.keys is not None


def test_database_parts_are_quoted_into_the_url(given: Given) -> None:
    settings = gateway_settings(given(db_addr="[::1]:1", db_user="a@b", db_password="p/w:", db_name="n"))
    assert settings.manager.database_url.reveal() == "postgresql://a%40b:p%2Fw%3A@[::1]:1/n"


def test_the_one_port_of_old_means_https_with_a_certificate(
    given: Given, certificate: dict[str, Path]
) -> None:
    assert gateway_settings(given(service_port=0)).http_port == 8080
    assert gateway_settings(given(service_port=81)).http_port == 81
    old = gateway_settings(given(**certificate, service_port=444))
    assert (old.http_port, old.https_port) == (None, 444)
    assert gateway_settings(given(**certificate)).https_port == 8443
    both = gateway_settings(given(**certificate, http_port=0, https_port=0))
    assert (both.http_port, both.https_port) == (0, 0)


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"https_port": 443}, "needs --ssl-cert"),
        ({"service_port": 1, "http_port": 2}, "excludes"),
        ({"ssl_cert": "/nowhere"}, "belong together"),
        ({"ssl_cert": "/nowhere", "ssl_key": "/nowhere"}, "/nowhere does not exist"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    given: Given, environ: dict[str, object], complaint: str
) -> None:
    with pytest.raises(BadOption, match=complaint):
        gateway_settings(given(**environ))


def test_an_agent_needs_keys_unless_encryption_is_off(given: Given, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"does not exist; `backendai agent enroll`"):
        agent_settings(given())
    assert agent_settings(given(link_encryption="off")).keys is None
    pair = new_key_pair()
    enrolled = EnrolledKeys(pair=pair, manager_public_key="m" * 40, manager_endpoint="tcp://far:5002")
    write_agent_keys(tmp_path / "agent" / "keys.json", enrolled)
    settings = agent_settings(given())
    assert settings.keys is not None
    assert (settings.keys.public_key, settings.keys.manager_public_key) == (pair.public_key, "m" * 40)
    assert settings.manager_endpoint == "tcp://far:5002"
    assert agent_settings(given(manager_endpoint="tcp://near:1")).manager_endpoint == "tcp://near:1"


def test_runners_wait_a_minute_under_up_unless_told(given: Given) -> None:
    assert up_settings(given()).orphan_timeout.total_seconds() == 60
    assert up_settings(given(orphan_timeout="5m")).orphan_timeout.total_seconds() == 300
