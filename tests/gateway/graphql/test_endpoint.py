"""Envelopes, errors, introspection, and how many statements an answer costs."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from graphql import build_client_schema, get_introspection_query
from graphql_place import SESSION, Ask, Place, add_session

from backendai.bridges.postgres import Database
from backendai.core.errors import InvalidParameters
from backendai.gateway.errors import GraphQLRefused
from backendai.gateway.graphql.endpoint import answer
from backendai.gateway.graphql.roots import lookups
from backendai.gateway.graphql.schema import schema
from backendai.manager.directory import DirectoryService

_FORBIDDEN = "{ mine: keypair { user_id } all: agents { id } }"


async def test_partial_data_stands_beside_errors(ask: Ask, place: Place) -> None:
    document = await ask(_FORBIDDEN, by=place.user)
    assert list(document) == ["errors", "data"]
    assert document == {
        "errors": [
            {
                "message": "Forbidden operation. (superadmin privilege required)",
                "locations": [{"line": 1, "column": 29}],
                "path": ["all"],
            }
        ],
        "data": {"mine": {"user_id": "user@backendai.local"}, "all": None},
    }


async def test_a_refused_query_has_no_data(ask: Ask) -> None:
    document = await ask("{ keypair { nosuch } }")
    assert list(document) == ["errors"]
    assert document["errors"][0]["locations"] == [{"line": 1, "column": 13}]


async def test_the_legacy_envelope(directory: DirectoryService, place: Place) -> None:
    body = b'{"query": "{ keypair { is_admin } }"}'
    status, text, kind = await answer(directory, place.superadmin, body, legacy=True)
    assert (status, text, kind) == (200, b'{"keypair":{"is_admin":true}}', "application/json")
    for query in (_FORBIDDEN, "{", "{ keypair { nosuch } }"):
        with pytest.raises(GraphQLRefused) as refusal:
            await answer(directory, place.user, json.dumps({"query": query}).encode(), legacy=True)
        assert refusal.value.data[0]["message"]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"{}", {"query"}),
        (b'{"query": 1}', {"query"}),
        (b'{"query": "{ a }", "extra": 1}', {"extra"}),
        (b'{"query": "{ a }", "variables": []}', {"variables"}),
        (b'{"query": "{ a }", "operationName": 1}', {"operation_name"}),
    ],
)
async def test_other_bodies_are_refused(
    directory: DirectoryService, place: Place, body: bytes, problems: set[str] | None
) -> None:
    with pytest.raises(InvalidParameters) as refusal:
        await answer(directory, place.user, body, legacy=False)
    if problems is None:
        assert refusal.value.msg == "Malformed body"
    else:
        assert refusal.value.msg == "Input validation error"
        assert set(refusal.value.data) == problems


async def test_operations_are_chosen_by_either_key(ask: Ask) -> None:
    query = "query A { domain { name } } query B { user { role } }"
    for key in ("operation_name", "operationName"):
        assert (await ask(query, **{key: "B"}))["data"] == {"user": {"role": "superadmin"}}
    assert "errors" in await ask(query)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('limit: 1, offset: 0, filter: "name = 1"', "Query filter parsing error: "),
        ('limit: 1, offset: 0, filter: ""', "Query filter parsing error: "),
        (
            'limit: 1, offset: 0, filter: "x == 1"',
            "Query filter parsing error: ('Unknown/unsupported field name', 'x')",
        ),
        ('limit: 1, offset: 0, order: "--x"', "Query ordering parsing error: "),
        ("limit: 1001, offset: 0", "Missing or invalid API parameters. (limit must be from 0 to 1000"),
        ("limit: -1, offset: 0", "Missing or invalid API parameters. (limit"),
        ("limit: 1, offset: -1", "Missing or invalid API parameters. (limit"),
        ('limit: 1, offset: 0, group_id: "x"', "Missing or invalid API parameters. (badly formed"),
        (r'limit: 1, offset: 0, access_key: "\u0000"', "Missing or invalid API parameters. (A text"),
    ],
)
async def test_bad_arguments_are_errors_of_their_field(ask: Ask, arguments: str, message: str) -> None:
    document = await ask(f"{{ compute_session_list({arguments}) {{ total_count }} }}")
    assert document["data"] == {"compute_session_list": None}
    (error,) = document["errors"]
    assert error["message"].startswith(message)
    assert error["path"] == ["compute_session_list"]


async def test_a_query_for_too_much_is_not_executed(ask: Ask, database: Database) -> None:
    query = (
        "{ compute_session_list(limit: 1000, offset: 0) { items { name dependencies { name dependencies"
        " { id name status containers { id status } } } } } }"
    )
    before = database.round_trips
    document = await ask(query)
    assert "too much at once" in document["errors"][0]["message"]
    assert database.round_trips == before


async def test_the_first_page_of_everything_is_not_too_much(ask: Ask) -> None:
    """The most that a client's own list commands can select."""
    fields = [name for name, field in _fields("ComputeSession").items() if "Compute" not in str(field.type)]
    selected = f"items {{ {' '.join(fields)} dependencies {{ id }} }}"
    query = f"{{ compute_session_list(limit: 100, offset: 0) {{ {selected} }} }}"
    assert "errors" not in await ask(query)


async def test_lists_cost_one_statement_and_one_per_relation(
    ask: Ask, database: Database, place: Place
) -> None:
    for _ in range(5):
        await add_session(database, place.user, place.default_project)
    list_ = "compute_session_list(limit: 100, offset: 0)"
    for selection, statements in {
        "items { id name user_email } total_count": 1,
        "total_count": 2,
        "items { id containers { id live_stat } dependencies { id containers { id } } } total_count": 4,
    }.items():
        before, asked = database.round_trips, place.measured.asked
        document = await ask(f"{{ {list_} {{ {selection} }} }}")
        assert database.round_trips == before + statements, selection
        assert place.measured.asked - asked == ("live_stat" in selection)
        assert document["data"]["compute_session_list"].get("total_count", 7) == 7


async def test_statuses_this_version_does_not_know_are_passed_over(ask: Ask, place: Place) -> None:
    query = "query($s: String) { compute_session_list(limit: 9, offset: 0, status: $s) { total_count } }"
    for statuses, expected in (
        ("RUNNING_DEGRADED,RUNNING, PREPARED", 2),
        ("BUILDING", 0),
        ("", 0),
        (None, 2),
    ):
        document = await ask(query, {"s": statuses})
        assert document["data"]["compute_session_list"]["total_count"] == expected, statuses


async def test_related_lists_take_their_own_arguments(ask: Ask, database: Database, place: Place) -> None:
    await add_session(database, place.user, place.default_project, name="gone", status="TERMINATED")
    document = await ask(
        '{ agents { all: compute_containers { status } live: compute_containers(status: "RUNNING") { id } }'
        ' keypair(access_key: "KEY") { compute_sessions(status: "TERMINATED") { name } } }'.replace(
            "KEY", place.user.access_key
        )
    )
    (agent,) = document["data"]["agents"]
    assert (len(agent["all"]), len(agent["live"])) == (3, 2)
    assert document["data"]["keypair"]["compute_sessions"] == [{"name": "gone"}]


async def test_introspection(ask: Ask, place: Place) -> None:
    document = await ask(get_introspection_query())
    assert "ComputeSession" in build_client_schema(document["data"]).type_map
    query = '{ __typename t: __type(name: "Agent") { name } k: keypair { user_id } agents { id } }'
    document = await ask(query, by=place.user)
    assert document["data"] == {
        "__typename": "Query",
        "t": {"name": "Agent"},
        "k": {"user_id": "user@backendai.local"},
        "agents": None,
    }
    assert document["errors"][0]["path"] == ["agents"]


async def test_every_root_field_has_a_lookup_that_takes_its_arguments(directory: DirectoryService) -> None:
    found = lookups(directory)
    assert set(found) == set(_fields("Query"))
    paging = {"limit", "offset", "filter", "order"}
    for name, field in _fields("Query").items():
        parameters = inspect.signature(found[name]).parameters
        takes = set(parameters) - {"asker", "wanted"}
        if "paging" in takes:
            takes = takes - {"paging"} | paging
        assert takes == set(field.args), name


async def test_one_session_by_id(ask: Ask, place: Place) -> None:
    query = "query($id: UUID!) { compute_session(id: $id) { name } }"
    assert (await ask(query, {"id": str(SESSION)}))["data"] == {"compute_session": {"name": "mine"}}
    assert (await ask(query, {"id": str(place.default_project)}))["data"] == {"compute_session": None}


def _fields(kind: str) -> dict[str, Any]:
    type_: Any = schema().type_map[kind]
    return dict(type_.fields)
