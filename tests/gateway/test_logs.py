from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from backendai.gateway.logs import configure_logging, current_request, mask_secrets


def test_secrets_are_masked_at_any_depth() -> None:
    event = {"event": "x", "Authorization": "BackendAI abc", "user": {"secret_key": "abc", "name": "Ann"}}
    assert mask_secrets(None, "info", event) == {
        "event": "x",
        "Authorization": "***",
        "user": {"secret_key": "***", "name": "Ann"},
    }


@pytest.fixture
def own_logging() -> Iterator[None]:
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_lines_are_json_and_name_their_request(own_logging: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(form="json", level="info")
    token = current_request.set("request-1")
    structlog.get_logger("ours").info("hello", api_token="abc")
    logging.getLogger("theirs").warning("careful")
    structlog.get_logger("ours").debug("too much")
    current_request.reset(token)
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["api_token"], ours["request_id"]) == ("hello", "***", "request-1")
    assert (theirs["event"], theirs["level"], theirs["request_id"]) == ("careful", "warning", "request-1")


def test_tracebacks_on_the_console_show_no_variables(
    own_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(form="console", level="info")
    password = "hunter2"  # noqa: F841
    try:
        raise ValueError("oops")
    except ValueError:
        structlog.get_logger().exception("failed")
    text = capsys.readouterr().err
    assert "ValueError: oops" in text
    assert "hunter2" not in text.replace('password = "hunter2"', "")
