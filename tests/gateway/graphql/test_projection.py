"""The compact executor must answer what graphql-core's executor answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from graphql import GraphQLError, execute_sync
from hypothesis import given, settings
from hypothesis import strategies as st

from backendai.gateway.graphql.document import (
    QueryRefused,
    coerce_variables,
    present_variables,
    read_document,
)
from backendai.gateway.graphql.projection import MAX_FIELDS, Projection, plan, selection_of, source_name
from backendai.gateway.graphql.schema import schema

_AT = datetime(2026, 4, 1, 1, 2, 3, tzinfo=UTC)


def session(**values: Any) -> dict[str, Any]:
    record = {
        "id": "11111111-2222-3333-4444-555555555555",
        "name": "one",
        "status": "RUNNING",
        "created_at": _AT,
        "terminated_at": None,
        "cluster_size": 1,
        "num_queries": 5,
        "mounts": ["a", None, "b"],
        "abusing_reports": [],
        "occupied_slots": '{"cpu": "1"}',
        "resource_opts": {"shmem": "64m", "é": 1},
        "containers": [{"id": "k1", "cluster_idx": 1}, {"id": "k2", "cluster_idx": 2}],
        "dependencies": [{"id": "d1", "name": "needed", "dependencies": []}],
    }
    return {**record, **values}


RECORDS: dict[str, Any] = {
    "compute_session": session(),
    "compute_session_list": {"items": [session(), session(name="two", containers=None)], "total_count": 2},
    "agents": [
        {
            "id": "i-1",
            "cpu_slots": 8,
            "schedulable": True,
            "compute_containers": [{"id": "k1"}],
            "compute_containers(status='RUNNING')": [{"id": "k2"}],
        }
    ],
    "images": None,
}


def _theirs(text: str, variables: dict[str, Any], records: dict[str, Any]) -> tuple[Any, list[Any]]:
    document = read_document(text)

    def resolve(source: Any, info: Any, **arguments: Any) -> Any:
        if info.path.prev is None:
            return records[info.field_name]
        return source[source_name(info.field_name, {k: v for k, v in arguments.items() if v is not None})]

    present = present_variables(document.operation(None), variables)
    result = execute_sync(schema(), document.ast, variable_values=present, field_resolver=resolve)
    return result.data, _by_path(result.errors or [])


def _ours(text: str, variables: dict[str, Any], records: dict[str, Any]) -> tuple[Any, list[Any]]:
    document = read_document(text)
    operation = document.operation(None)
    values = coerce_variables(operation, present_variables(operation, variables))
    projection = Projection()
    data: dict[str, Any] = {}
    for root in plan(document, operation, values):
        data[root.key] = root.constant or projection.root(root, records.get(root.name))
    return data, _by_path(projection.errors)


def _by_path(errors: list[GraphQLError]) -> list[Any]:
    return sorted((error.formatted for error in errors), key=lambda error: str(error["path"]))


def _same(text: str, variables: dict[str, Any] | None = None, **records: Any) -> Any:
    known = {**RECORDS, **records}
    text = text.replace("LIST", _LIST)
    ours, theirs = _ours(text, variables or {}, known), _theirs(text, variables or {}, known)
    assert ours == theirs
    assert list(ours[0]) == list(theirs[0])
    return ours


#: What ``LIST`` stands for in the queries below.
_LIST = "compute_session_list(limit: 1, offset: 0)"


@pytest.mark.parametrize(
    "text",
    [
        '{ compute_session(id: "11111111-2222-3333-4444-555555555555") { name id name status } }',
        "{ LIST { total_count items { name created_at terminated_at cluster_size num_queries } } }",
        "{ LIST { items { mounts abusing_reports occupied_slots resource_opts } } }",
        "{ LIST { items { __typename containers { cluster_idx __typename } } __typename } __typename }",
        "{ a: LIST { n: total_count } b: LIST { xs: items { y: name z: name } } }",
        "{ LIST { items { name } } LIST { items { id } total_count } }",
        "query($a: Boolean = true) { LIST { items { name @skip(if: $a) id @include(if: $a) } } }",
        "query($a: Boolean!) { LIST { total_count items @include(if: $a) { id } } }",
        "{ LIST { ...L } } fragment L on ComputeSessionList { items { ...S ...S ... on Item { id } } }"
        " fragment S on ComputeSession { id dependencies { ...D } } fragment D on ComputeSession { name }",
        "{ LIST { items { ... { name } ... on ComputeSession @skip(if: true) { id } } } }",
        "{ LIST { ... on PaginatedList { total_count } } }",
        '{ agents { a: compute_containers { id } b: compute_containers(status: "RUNNING") { id } } }',
        "{ images { name labels { key } } }",
    ],
)
def test_agrees_with_graphql_core(text: str) -> None:
    _same(text, {"a": False})


@pytest.mark.parametrize(
    ("text", "records"),
    [
        # too wide for the protocol's Int
        ("{ LIST { items { id cluster_size } } }", {"items": [session(cluster_size=2**40)]}),
        # a scalar inside a list
        ("{ LIST { items { mounts } } }", {"items": [session(mounts=["a", {"b": 1}])]}),
        ("{ LIST { items { num_queries } } }", {"items": [session(num_queries=2**60)]}),
        # null where none may be
        ("{ LIST { total_count items { id } } }", {"items": [session()], "total_count": None}),
        ("{ LIST { total_count items { id } } __typename }", {"items": None, "total_count": 1}),
        ("{ LIST { total_count } }", {"items": None, "total_count": "many"}),
        ("{ LIST { items { name } } }", {"items": [None, session()]}),
    ],
)
def test_agrees_on_errors(text: str, records: Any) -> None:
    _data, errors = _same(text, compute_session_list=records)
    assert errors or records["items"] == [None, session()]


_LEAVES = [
    "id",
    "name",
    "status",
    "created_at",
    "cluster_size",
    "num_queries",
    "mounts",
    "__typename",
    "a: name",
]


def _selections(depth: int) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(_LEAVES)
    if depth == 0:
        return st.lists(leaf, min_size=1, max_size=4).map(" ".join)
    below = _selections(depth - 1)
    part = st.one_of(
        leaf,
        below.map(lambda inner: f"dependencies {{ {inner} }}"),
        below.map(lambda inner: f"... on Item {{ ... on ComputeSession {{ {inner} }} }}"),
        below.map(lambda inner: f"... @include(if: $yes) {{ {inner} }}"),
        below.map(lambda inner: f"... @skip(if: $yes) {{ {inner} }}"),
        st.just("containers { id }"),
        st.just("...F"),
    )
    return st.lists(part, min_size=1, max_size=4).map(" ".join)


_optional = st.one_of(st.none(), st.integers(-(2**40), 2**40))
_records = st.recursive(
    st.builds(lambda n, q: session(cluster_size=n, num_queries=q, dependencies=None), _optional, _optional),
    lambda inner: st.builds(lambda ds: session(dependencies=ds), st.lists(inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(_selections(2), st.lists(_records, max_size=3))
def test_agrees_whatever_is_asked(selection: str, records: list[Any]) -> None:
    text = (
        "query($yes: Boolean!) { LIST { items { " + selection + " ...F id @include(if: $yes) } } }"
        " fragment F on ComputeSession { name tag: status cluster_size }"
    )
    for record in records:
        _fill(record)
    _same(text, {"yes": True}, compute_session_list={"items": records, "total_count": 0})


def _fill(record: dict[str, Any]) -> None:
    """Below the generated records, the fixed ones lack what a generated query may select."""
    for needed in record["dependencies"] or ():
        for name, value in session(dependencies=None).items():
            needed.setdefault(name, value)
        _fill(needed)


def test_a_selection_names_what_has_to_be_loaded() -> None:
    document = read_document(
        "{ agents { id __typename a: compute_containers { id } c: compute_containers { status }"
        ' b: compute_containers(status: "RUNNING") { id } } }'
    )
    operation = document.operation(None)
    (root,) = plan(document, operation, coerce_variables(operation, {}))
    wanted = selection_of(root.fields or ())
    assert wanted.fields == {"id"}
    assert set(wanted.relations) == {"compute_containers", "compute_containers(status='RUNNING')"}
    assert wanted.relations["compute_containers"].selection.fields == {"id", "status"}
    assert wanted.relations["compute_containers(status='RUNNING')"].arguments == {"status": "RUNNING"}


def test_fragments_cannot_multiply_without_bound() -> None:
    levels = 6
    fragments = []
    for n in range(levels):
        uses = " ".join(f"{alias}{n}: dependencies {{ ...F{n + 1} }}" for alias in "abc")
        fragments.append(f"fragment F{n} on ComputeSession {{ {uses} }}")
    text = (
        '{ compute_session(id: "11111111-2222-3333-4444-555555555555") { ...F0 } } '
        + " ".join(fragments)
        + f" fragment F{levels} on ComputeSession {{ id name status tag image }}"
    )
    document = read_document(text)
    operation = document.operation(None)
    with pytest.raises(QueryRefused, match=f"More than {MAX_FIELDS} fields"):
        plan(document, operation, coerce_variables(operation, {}))
