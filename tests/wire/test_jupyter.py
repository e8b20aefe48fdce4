"""The Jupyter codec against what hostile and honest kernels send."""

from __future__ import annotations

import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from backendai.wire.jupyter import DELIMITER, MAX_HEADER_BYTES, JupyterCodec, MalformedJupyterMessage, new_key

KEY = b"0123456789abcdef"


def _signed(header: bytes, parent: bytes, metadata: bytes, content: bytes, key: bytes = KEY) -> list[bytes]:
    signature = hmac.new(key, header + parent + metadata + content, "sha256").hexdigest().encode()
    return [DELIMITER, signature, header, parent, metadata, content]


def test_the_reference_implementation_reads_ours_and_we_read_its() -> None:
    codec = JupyterCodec(KEY)
    session = Session(key=KEY)
    msg_id, frames = codec.encode("execute_request", {"code": "é"})
    message = session.deserialize(session.feed_identities(frames)[1])
    assert message["header"]["msg_id"] == msg_id
    assert message["content"] == {"code": "é"}
    theirs = session.serialize(session.msg("stream", {"text": "x"}, parent=message), ident=[b"topic"])
    ours = codec.decode(theirs)
    assert (ours.kind, ours.parent.msg_id, ours.content) == ("stream", msg_id, {"text": "x"})


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"x"] * 10,
        [DELIMITER],
        [DELIMITER, b"", b"{}", b"{}", b"{}"],
        _signed(b"{}", b"{}", b"{}", b"{}", key=b"wrong"),
        _signed(b"{" + b" " * MAX_HEADER_BYTES + b"}", b"{}", b"{}", b"{}"),
        _signed(b"[]", b"{}", b"{}", b"{}"),
        _signed(b"{}", b"{}", b"{}", b"7"),
        _signed(b"{}", b"{}", b"{}", b"not json"),
        _signed(b"{}", b"{}", b"{}", b"[" * 200_000),
        _signed(b"{}", b"{}", b"{}", b'{"a":' * 200_000),
        [b"a", b"b", b"c", b"d", b"e", *_signed(b"{}", b"{}", b"{}", b"{}")],
        [*_signed(b"{}", b"{}", b"{}", b"{}"), *([b""] * 100)],
    ],
)
def test_what_is_no_message_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(MalformedJupyterMessage):
        JupyterCodec(KEY).decode(frames)


@pytest.mark.parametrize("text", [b'{"text":"\\ud800"}', b'{"text":"\xff"}'])
def test_broken_unicode_is_shown_with_replacements(text: bytes) -> None:
    content = JupyterCodec(KEY).decode(_signed(b"{}", b"{}", b"{}", text)).content
    assert content["text"].encode("utf-8")


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_arbitrary_frames_never_raise_anything_else(frames: list[bytes]) -> None:
    with pytest.raises(MalformedJupyterMessage):
        JupyterCodec(KEY).decode(frames)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs",))), st.integers(-(2**53), 2**53) | st.none()
    )
)
def test_content_survives_the_way(content: dict[str, object]) -> None:
    codec = JupyterCodec(KEY)
    decoded = codec.decode(codec.encode("kind", content)[1])
    assert decoded.content == content
    assert json.dumps(decoded.content)


def test_keys_are_fresh() -> None:
    assert new_key() != new_key()
    assert len(new_key()) == 64
