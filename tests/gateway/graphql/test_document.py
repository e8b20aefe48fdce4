"""Bounds on what a query text may cost, and what is forgiven to clients in the field."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import get_introspection_query

from backendai.gateway.graphql import document as module
from backendai.gateway.graphql.document import (
    MAX_TEXT,
    QueryRefused,
    coerce_variables,
    present_variables,
    read_document,
)
from backendai.gateway.graphql.projection import plan
from backendai.gateway.graphql.schema import schema
from backendai.storage.listing import Listing
from backendai.storage.listing_accounts import DOMAINS, KEYPAIRS, POLICIES, PROJECTS, USERS
from backendai.storage.listing_fleet import AGENTS, IMAGES, SCALING_GROUPS
from backendai.storage.listing_sessions import KERNELS, SESSIONS

_DEEP = "{ compute_session(id: 1) " + "{ dependencies " * 25 + "{ id }" + "}" * 26


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{ domain { name } } #" + "x" * MAX_TEXT, "longer than"),
        ("{ " + "domain { name } " * 31 + "}", "root fields"),
        ("{ domain { " + "name " * 501 + "} }", "selections"),
        ("{ domain { " + "name " * 5000 + "} }", "tokens"),
        (_DEEP, "levels deep"),
        ("{ a" * 5000, "nested too deeply"),
        (
            "{ domain { name } } " + " ".join(f"fragment F{n} on Domain {{ name }}" for n in range(31)),
            "fragments",
        ),
        ("{ domain { " + "...F " * 31 + "} } fragment F on Domain { name }", "fragments"),
        ("fragment F on Domain { name }", "never used"),
        ("", "Syntax Error"),
        ("{ nosuch }", "Cannot query field"),
        ("{ domain { } }", "Syntax Error"),
        ("mutation { create_domain { ok } }", "not supported by the schema"),
        ("type X { a: Int }", "not executable"),
        (
            "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }",
            "introspection depth",
        ),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(QueryRefused, match=why):
        read_document(text)


def test_kept_documents_are_few_and_short() -> None:
    kept = read_document("{ domain { name } }")
    assert read_document("{ domain { name } }") is kept
    for n in range(200):
        read_document(f"{{ a{n}: domain {{ name }} }}")
    assert module._read_kept.cache_info().currsize == 128
    long = "{ domain { name } } #" + "x" * 5000
    assert read_document(long) is not read_document(long)


def _arguments(text: str, given: dict[str, Any]) -> dict[str, Any]:
    document = read_document(text)
    operation = document.operation(None)
    (root, *_) = plan(document, operation, coerce_variables(operation, present_variables(operation, given)))
    return dict(root.arguments)


_ID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("text", "given", "arguments"),
    [
        # null and absent variables, undeclared extra ones
        ("query($e: String) { user(email: $e) { id } }", {"e": None, "x": 1}, {}),
        ("query($e: String) { user(email: $e) { id } }", {}, {}),
        ('query($e: String = "d") { user(email: $e) { id } }', {"e": None}, {"email": "d"}),
        ("{ user(email: null) { id } }", {}, {}),
        # types declared under other names than ours
        ("query($i: String!) { compute_session(id: $i) { id } }", {"i": _ID.upper()}, {"id": _ID}),
        ("query($i: GlobalThing!) { compute_session(id: $i) { id } }", {"i": _ID}, {"id": _ID}),
        ("query($n: Int!) { user(email: $n) { id } }", {"n": 5}, {"email": "5"}),
        # numbers as text
        (
            "query($l: Int!) { agent_list(limit: $l, offset: 0) { total_count } }",
            {"l": "20"},
            {"limit": 20, "offset": 0},
        ),
        # commas too few and too many
        (
            "query($a: String $b: Int!,) { agent_list(limit:$b offset:$b filter:$a,) { total_count } }",
            {"a": "x", "b": 1},
            {"limit": 1, "offset": 1, "filter": "x"},
        ),
        ("{ user_from_uuid(user_id: 5) { id } }", {}, {"user_id": "5"}),
    ],
)
def test_variables_are_taken_as_clients_send_them(text: str, given: dict[str, Any], arguments: Any) -> None:
    assert _arguments(text, given) == arguments


@pytest.mark.parametrize(
    ("text", "given", "why"),
    [
        ("query($i: UUID!) { compute_session(id: $i) { id } }", {"i": "x"}, "badly formed hexadecimal UUID"),
        ("query($i: UUID!) { compute_session(id: $i) { id } }", {"i": 7}, "badly formed hexadecimal UUID"),
        ("query($i: UUID!) { compute_session(id: $i) { id } }", {"i": None}, "i"),
        ("query($i: UUID!) { compute_session(id: $i) { id } }", {}, "i"),
        ("query($l: Int!) { agent_list(limit: $l, offset: 0) { total_count } }", {"l": "many"}, "Int"),
        ("query($l: Int!) { agent_list(limit: $l, offset: 0) { total_count } }", {"l": 2**40}, "Int"),
        ("query($l: Int) { agent_list(limit: $l, offset: 0) { total_count } }", {"l": 1}, "Int!"),
        ("query($b: Boolean) { domains(is_active: $b) { name } }", {"b": "yes"}, "Boolean"),
        ('{ compute_session(id: "x") { id } }', {}, "badly formed hexadecimal UUID"),
        ("query($e: String) { user { id } }", {}, "never used"),
    ],
)
def test_bad_variables_are_refused(text: str, given: dict[str, Any], why: str) -> None:
    with pytest.raises(QueryRefused, match=why):
        _arguments(text, given)


def test_an_operation_is_chosen_by_name() -> None:
    document = read_document("query A { domain { name } } query B { user { id } }")
    assert document.operation("B").name.value == "B"  # type: ignore[union-attr]
    with pytest.raises(QueryRefused, match="Must provide operation name"):
        document.operation(None)
    with pytest.raises(QueryRefused, match="Unknown operation named 'C'"):
        document.operation("C")


@pytest.mark.parametrize(
    ("kind", "listing", "elsewhere"),
    [
        ("ComputeSession", SESSIONS, {"containers", "dependencies"}),
        ("ComputeContainer", KERNELS, {"live_stat"}),
        ("Agent", AGENTS, {"live_stat", "cpu_cur_pct", "mem_cur_bytes", "compute_containers"}),
        ("KeyPair", KEYPAIRS, {"compute_sessions"}),
        ("User", USERS, set()),
        ("Domain", DOMAINS, set()),
        ("Group", PROJECTS, set()),
        ("Image", IMAGES, set()),
        ("KeyPairResourcePolicy", POLICIES, set()),
        ("ScalingGroup", SCALING_GROUPS, set()),
    ],
)
def test_every_field_of_the_schema_has_a_source(kind: str, listing: Listing, elsewhere: set[str]) -> None:
    type_: Any = schema().type_map[kind]
    assert set(type_.fields) == set(listing.fields) | elsewhere


def test_the_usual_introspection_is_within_bounds() -> None:
    read_document(get_introspection_query(specified_by_url=True, input_value_deprecation=True))
