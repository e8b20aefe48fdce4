"""What clients of 2017 may say, and how what they may not say is answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai.manager.creation import check_name
from backendai.wire import legacy
from backendai.wire.legacy import Destroy, GetOrCreate, LegacyRefusal, Ping, decode_request


def refusal(data: bytes) -> object:
    with pytest.raises(LegacyRefusal) as caught:
        decode_request(data)
    return json.loads(caught.value.reply)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"{}",
        b'{"body": 1}',
        b'{"action": 0, "body": "\xff"}',
        b'{"action": 0, "body": ' + b"[" * 10_000,
        b'{"action": ' + b"9" * 5000 + b"}",
        b'{"action": 0} {"action": 0}',
    ],
)
def test_malformed(data: bytes) -> None:
    assert refusal(data) == {"reply": 400, "cause": "Malformed API request."}


@pytest.mark.parametrize("action", ["1", "4", "-1", '"0"', "true", "null", "2.5", "[]", str(10**30)])
def test_unknown_actions_are_answered_with_nothing(action: str) -> None:
    assert refusal(b'{"action": %s}' % action.encode()) == {}


@pytest.mark.parametrize(
    "data",
    [
        b'{"action": 0}',
        b'{"action": 2, "user_id": "a", "entry_id": "b"}',
        b'{"action": 2, "user_id": "a", "entry_id": "b", "lang": 3}',
        b'{"action": 2, "user_id": "a", "entry_id": "b", "lang": "py\\u0000"}',
        b'{"action": 2, "user_id": "%s", "entry_id": "b", "lang": "python"}' % (b"a" * 257),
        b'{"action": 3}',
        b'{"action": 3, "kernel_id": null}',
    ],
)
def test_missing(data: bytes) -> None:
    assert refusal(data) == {"reply": 400, "cause": "Missing API parameters."}


def test_what_is_understood() -> None:
    said = '{"action": 2, "user_id": 7, "entry_id": "é", "lang": "python3", "more": 1}'.encode()
    assert decode_request(said) == GetOrCreate(user_id=7, entry_id="é", lang="python3")
    assert decode_request(b'{"kernel_id": "x", "action": 3}') == Destroy(kernel_id="x")


def test_a_body_comes_back_as_it_was() -> None:
    ping = decode_request('{"action": 0, "body": {"é": [1.0, 12345678901234567890123, null]}}'.encode())
    assert isinstance(ping, Ping)
    assert legacy.pong(ping) == '{"reply":0,"body":{"é": [1.0, 12345678901234567890123, null]}}'.encode()


Token = tuple[str, str, str]
PARTS = st.tuples(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))


@given(PARTS, PARTS)
def test_names_are_valid_and_tell_tokens_apart(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    names = [GetOrCreate(*parts).session_name for parts in (one, other)]
    check_name(names[0])
    assert (names[0] == names[1]) == (one == other)


def test_colons_do_not_make_tokens_the_same() -> None:
    one, other = GetOrCreate("a:b", "c", "d"), GetOrCreate("a", "b:c", "d")
    assert one.token == other.token
    assert one.session_name != other.session_name
