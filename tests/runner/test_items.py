"""Console items of kernel messages, and the journal that keeps them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backendai.runner.items import MAX_RICH, Piece, exit_code_of, pieces_of
from backendai.runner.journal import Journal, PrintLog


@pytest.mark.parametrize(
    ("kind", "content", "pieces"),
    [
        ("stream", {"name": "stdout", "text": "a"}, [Piece("stdout", "a")]),
        ("stream", {"name": "other", "text": 7}, [Piece("stdout", "")]),
        ("stream", {}, [Piece("stdout", "")]),
        ("status", {"execution_state": "idle"}, []),
        ("execute_result", {"data": {"text/plain": "4"}}, [Piece("stdout", "4\n")]),
        (
            "execute_result",
            {"data": {"text/plain": "df", "text/html": ["<table>", "</table>"]}},
            [Piece("stdout", "df\n"), Piece("html", "<table></table>")],
        ),
        (
            "display_data",
            {"data": {"text/plain": "Figure", "image/png": "QUJD\nREVG\n"}},
            [Piece("media", "data:image/png;base64,QUJDREVG", "image/png")],
        ),
        ("display_data", {"data": {"text/plain": "only text"}}, [Piece("stdout", "only text\n")]),
        ("display_data", {"data": 3}, []),
        ("error", {"ename": "E", "evalue": "v", "traceback": ["a", "b"]}, [Piece("stderr", "a\nb\n")]),
        ("error", {"ename": "E", "evalue": "v"}, [Piece("stderr", "E: v\n")]),
        ("error", {"ename": "SystemExit", "evalue": "3", "traceback": ["long"]}, []),
        ("error", {"ename": "SystemExit", "evalue": "bye", "traceback": []}, [Piece("stderr", "bye\n")]),
    ],
)
def test_pieces(kind: str, content: dict[str, Any], pieces: list[Piece]) -> None:
    assert pieces_of(kind, content) == pieces


def test_rich_output_that_fits_no_reply_is_left_out_by_name() -> None:
    (piece,) = pieces_of("display_data", {"data": {"text/html": "x" * (MAX_RICH + 1)}})
    assert piece.kind == "stderr"
    assert "too large" in piece.data


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"status": "ok"}, 0),
        ({"status": "ok", "payload": [{"source": "ask_exit", "keepkernel": 4}]}, 4),
        ({"status": "ok", "payload": [{"source": "ask_exit", "keepkernel": False}]}, 0),
        ({"status": "error", "ename": "ValueError"}, 1),
        ({"status": "error", "ename": "SystemExit", "evalue": ""}, 0),
        ({"status": "error", "ename": "SystemExit", "evalue": "-1"}, 255),
        ({"status": "error", "ename": "SystemExit", "evalue": "no"}, 1),
        ({"status": "aborted"}, 1),
        ({}, 1),
    ],
)
def test_exit_codes(content: dict[str, Any], code: int) -> None:
    assert exit_code_of(content) == code


_pieces = st.builds(
    Piece,
    st.sampled_from(["stdout", "stderr", "html"]),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=50),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(pieces=st.lists(_pieces, max_size=200), reads=st.lists(st.integers(0, 200)), size=st.integers(1, 400))
def test_a_journal_read_in_any_pieces_is_complete(
    tmp_path: Path, pieces: list[Piece], reads: list[int], size: int
) -> None:
    journal = Journal(tmp_path / "journal", 1 << 20)
    try:
        points = set(reads)
        text: dict[str, str] = {}
        for number, piece in enumerate(pieces):
            assert journal.append(piece)
            if number in points:
                journal.read(0, 10)
        index = 0
        while index < journal.next_index:
            assert journal.pending_since(index) > 0
            items, next_index = journal.read(index, size)
            assert items
            assert items[-1].index == next_index - 1
            for before, after in itertools.pairwise(items):
                assert before.kind != after.kind or before.kind == "html"
            for item in items:
                text[item.kind] = text.get(item.kind, "") + item.data
            index = next_index
        assert journal.pending_since(index) == 0
        expected: dict[str, str] = {}
        for piece in pieces:
            expected[piece.kind] = expected.get(piece.kind, "") + piece.data
        assert text == expected
    finally:
        journal.remove()


def test_a_journal_cuts_at_its_limit_between_characters(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", 101)
    assert not journal.append(Piece("stdout", "é" * 60))
    assert not journal.append(Piece("html", "<b>"))
    journal.append_past_limit(Piece("stderr", "limit"))
    items, _ = journal.read(0, 1000)
    assert [(item.kind, item.data) for item in items] == [("stdout", "é" * 50), ("stderr", "limit")]
    journal.remove()


def test_the_print_log_keeps_its_tail(tmp_path: Path) -> None:
    log = PrintLog(tmp_path, 1000)
    log.write(b"a" * 600)
    assert log.tail(1000) == ("a" * 600, False)
    log.write(b"b" * 600)
    assert log.tail(1000) == ("a" * 400 + "b" * 600, True)
    assert log.tail(100) == ("b" * 100, True)
    log.write(b"c" * 5000)
    assert log.tail(1000) == ("c" * 1000, True)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    log.close()
