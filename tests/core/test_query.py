from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai.core.query import (
    And,
    Comparison,
    FilterError,
    Not,
    Operator,
    Or,
    OrderError,
    OrderItem,
    parse_filter,
    parse_order,
)


def _is(name: str, value: object = 1) -> Comparison:
    return Comparison(name, Operator.EQUAL, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name == "a"', _is("name", "a")),
        ("n>3", Comparison("n", Operator.GREATER, 3)),
        ("n >= -3", Comparison("n", Operator.GREATER_EQUAL, -3)),
        ("n<=+2.5", Comparison("n", Operator.LESS_EQUAL, 2.5)),
        ("n != null", Comparison("n", Operator.UNEQUAL, None)),
        ('name ilike "%A%"', Comparison("name", Operator.ILIKE, "%A%")),
        ('name like "a_"', Comparison("name", Operator.LIKE, "a_")),
        ('name contains "x"', Comparison("name", Operator.CONTAINS, "x")),
        ('status in ["RUNNING", "PENDING"]', Comparison("status", Operator.IN, ("RUNNING", "PENDING"))),
        ("x in []", Comparison("x", Operator.IN, ())),
        ("terminated_at is null", Comparison("terminated_at", Operator.IS, None)),
        ("a isnot true", Comparison("a", Operator.IS_NOT, True)),
        ("a == false", _is("a", False)),
        (r'a == "say \"hi\" \n"', _is("a", r'say "hi" \n')),
        ("a==1&b==1|c==1", And(_is("a"), Or(_is("b"), _is("c")))),
        ("(a==1 & b==1) | c==1", Or(And(_is("a"), _is("b")), _is("c"))),
        ("!a==1 & b==1", Not(And(_is("a"), _is("b")))),
        ("(!a==1) & b==1", And(Not(_is("a")), _is("b"))),
        ('!(name == "a")', Not(_is("name", "a"))),
        (
            '(id == "i-1" | region == "local") & version like "22.%"',
            And(Or(_is("id", "i-1"), _is("region", "local")), Comparison("version", Operator.LIKE, "22.%")),
        ),
    ],
)
def test_filter(text: str, expected: object) -> None:
    assert parse_filter(text) == expected
    assert parse_filter(f"  {text}\n") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "name",
        "name ==",
        "name == 'a'",
        "name == a",
        'a == "x" and b == 1',
        'not a == "x"',
        "a == 1 &",
        "(a == 1",
        "a == 1)",
        "a == [1,]",
        'a == "open',
        "a ~ 1",
        "a == 1 b == 2",
        "&",
        "a = 1",
        "é == 1",
    ],
)
def test_filter_refuses(text: str) -> None:
    with pytest.raises(FilterError, match="Query filter parsing error: "):
        parse_filter(text)


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "!" * 5000, "a == " + "[" * 5000, "&".join(["a==1"] * 300), 'a == "' + "x" * 10000 + '"'],
)
def test_filter_is_bounded(text: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(text)


@given(st.text(alphabet='ab_1"\\!&|()[]<>=, .', max_size=60))
def test_filter_either_parses_or_says_why(text: str) -> None:
    with contextlib.suppress(FilterError):
        parse_filter(text)


@given(st.text(max_size=40))
def test_any_string_value_survives(value: str) -> None:
    if value.endswith("\\") or '\\"' in value or "\\" in value:
        return
    escaped = value.replace('"', '\\"')
    assert parse_filter(f'a == "{escaped}"') == _is("a", value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("-created_at", (OrderItem("created_at", ascending=False),)),
        ("status,+id", (OrderItem("status"), OrderItem("id"))),
        (" a , - b ", (OrderItem("a"), OrderItem("b", ascending=False))),
    ],
)
def test_order(text: str, expected: object) -> None:
    assert parse_order(text) == expected


@pytest.mark.parametrize("text", ["id desc", "a,", ",a", "--id", "+-id", "1a", "a;b", ",".join("a" * 40)])
def test_order_refuses(text: str) -> None:
    with pytest.raises(OrderError, match="Query ordering parsing error: "):
        parse_order(text)
