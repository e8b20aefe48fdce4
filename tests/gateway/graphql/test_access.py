"""Who sees what (contract 06 §3)."""

from __future__ import annotations

from typing import Any

from graphql_place import SESSION, Ask, Place, add_session

from backendai.bridges.postgres import Database

_FORBIDDEN = "Forbidden operation."
_SUPERADMIN = "Forbidden operation. (superadmin privilege required)"
_PRIVILEGE = "Insufficient privilege."
_ROLE = "Missing or invalid API parameters. (Unknown client role)"
_PAGE = "limit: 9, offset: 0"
_CONTAINERS = f'compute_container_list({_PAGE}, session_id: "{SESSION}") {{ total_count }}'
_FOUR = [{"domain_name": "default"}] * 4


#: Who, what, and the whole error message.
REFUSED: list[tuple[str, str, str]] = [
    *(
        (who, root, _SUPERADMIN)
        for who in ("admin", "user", "monitor")
        for root in (
            'agent(agent_id: "i-local") { id }',
            f"agent_list({_PAGE}) {{ total_count }}",
            "agents { id }",
            "domains { name }",
            "scaling_group { name }",
            "scaling_groups { name }",
            'scaling_groups_for_domain(domain: "default") { name }',
            'scaling_groups_for_keypair(access_key: "x") { name }',
        )
    ),
    *(
        ("monitor", root, _ROLE)
        for root in (
            "user { id }",
            "users { id }",
            "keypair { id }",
            f"keypair_list({_PAGE}) {{ total_count }}",
            f"compute_session_list({_PAGE}) {{ total_count }}",
            f'compute_session(id: "{SESSION}") {{ id }}',
            "groups { id }",
            "images { id }",
            "keypair_resource_policies { name }",
        )
    ),
    ("user", "users { id }", _PRIVILEGE),
    ("user", f"user_list({_PAGE}) {{ total_count }}", _PRIVILEGE),
    ("user", 'domain(name: "other") { name }', "No such domain."),
    ("admin", 'domain(name: "other") { name }', "No such domain."),
    ("admin", 'users(domain_name: "other") { id }', _FORBIDDEN),
    ("admin", 'groups(domain_name: "other") { id }', _FORBIDDEN),
    ("admin", f'compute_session_list({_PAGE}, domain_name: "other") {{ total_count }}', _FORBIDDEN),
    ("user", f'compute_session_list({_PAGE}, access_key: "x") {{ total_count }}', _FORBIDDEN),
    ("user", f'compute_session_list({_PAGE}, domain_name: "other") {{ total_count }}', _FORBIDDEN),
    ("user", 'keypair(access_key: "x") { id }', _FORBIDDEN),
    ("user", 'keypairs(email: "x@y.z") { id }', _FORBIDDEN),
    ("user", 'user(email: "admin@backendai.local") { id }', _FORBIDDEN),
    ("user", f'user_from_uuid(user_id: "{SESSION}") {{ id }}', _FORBIDDEN),
    ("user", f'group(id: "{SESSION}") {{ id }}', _PRIVILEGE),
    ("user", 'image(reference: "nosuch") { id }', "No such environment image. (nosuch)"),
]


async def test_refused(ask: Ask, place: Place) -> None:
    for who, root, message in REFUSED:
        document = await ask(f"{{ {root} }}", by=getattr(place, who))
        assert [error["message"] for error in document.get("errors", [])] == [message], (who, root)


#: Who, what, and what of it.
SEEN: list[tuple[str, str, Any]] = [
    ("superadmin", "user { email }", {"email": "admin@backendai.local"}),
    ("superadmin", 'user(email: "user@backendai.local") { role }', {"role": "user"}),
    ("superadmin", 'user(email: "no@body") { role }', None),
    ("admin", "user { email }", {"email": "da@backendai.local"}),
    ("admin", 'user(email: "someone@other.local") { email }', None),
    ("user", 'user(email: "user@backendai.local") { email }', {"email": "user@backendai.local"}),
    ("superadmin", "users { domain_name }", [*_FOUR, {"domain_name": "other"}]),
    ("admin", "users { domain_name }", _FOUR),
    ("superadmin", f'user_list({_PAGE}, status: "inactive") {{ total_count }}', {"total_count": 0}),
    ("superadmin", f"keypair_list({_PAGE}) {{ total_count }}", {"total_count": 5}),
    ("admin", f"keypair_list({_PAGE}) {{ total_count }}", {"total_count": 4}),
    ("user", f"keypair_list({_PAGE}) {{ total_count }}", {"total_count": 1}),
    ("superadmin", f"compute_session_list({_PAGE}) {{ total_count }}", {"total_count": 3}),
    ("admin", f"compute_session_list({_PAGE}) {{ total_count }}", {"total_count": 2}),
    ("user", f"compute_session_list({_PAGE}) {{ total_count }}", {"total_count": 2}),
    ("other", f"compute_session_list({_PAGE}) {{ total_count }}", {"total_count": 1}),
    ("other", f'compute_session(id: "{SESSION}") {{ id }}', None),
    ("other", f'compute_container(id: "{SESSION}") {{ id }}', None),
    ("admin", f'compute_container(id: "{SESSION}") {{ role }}', {"role": "main"}),
    ("other", _CONTAINERS, {"total_count": 0}),
    ("user", _CONTAINERS, {"total_count": 1}),
    ("superadmin", "domain { name }", {"name": "default"}),
    ("superadmin", 'domain(name: "other") { name }', {"name": "other"}),
    ("superadmin", "groups { name }", [{"name": "default"}, {"name": "elsewhere"}]),
    ("admin", "groups { name }", [{"name": "default"}]),
    ("user", "groups(is_active: false) { name }", [{"name": "default"}]),
    ("other", "groups { name }", []),
    ("user", 'groups_by_name(name: "elsewhere") { id }', []),
    ("superadmin", 'groups_by_name(name: "elsewhere") { domain_name }', [{"domain_name": "other"}]),
    ("monitor", "keypair_resource_policy { name }", {"name": "default"}),
    ("user", "keypair_resource_policies { name }", [{"name": "default"}]),
    ("admin", "keypair_resource_policies { name }", [{"name": "default"}, {"name": "large"}]),
    ("user", 'image(reference: "python") { tag }', {"tag": "3.11"}),
    ("user", 'image(reference: "stable/python:3.11", architecture: "x86_64") { tag }', {"tag": "3.11"}),
    ("user", 'image(reference: "local/stable/python:3.11") { tag }', {"tag": "3.11"}),
    ("other", "images { name }", []),
    ("user", "images(is_operation: false, is_installed: true) { name }", [{"name": "stable/python"}]),
    ("user", "images(is_operation: true) { name }", []),
    ("superadmin", 'scaling_groups_for_domain(domain: "default") { name }', [{"name": "default"}]),
    ("superadmin", 'scaling_groups_for_domain(domain: "other") { name }', []),
]


async def test_seen(database: Database, ask: Ask, place: Place) -> None:
    elsewhere = await database.fetchval("SELECT id FROM projects WHERE name = 'elsewhere'")
    await add_session(database, place.other, elsewhere)
    await database.execute("INSERT INTO keypair_resource_policies (name) VALUES ('large')")
    await database.execute(
        "UPDATE domains SET allowed_docker_registries = '[\"cr.example\"]' WHERE name = 'other'"
    )
    for who, root, expected in SEEN:
        document = await ask(f"{{ {root} }}", by=getattr(place, who))
        assert "errors" not in document, (who, root)
        (value,) = document["data"].values()
        if isinstance(value, list):
            value.sort(key=str)
        assert value == expected, (who, root)


async def test_domain_admins_do_not_get_the_secrets_of_superadmins(ask: Ask, place: Place) -> None:
    query = f"{{ keypair_list({_PAGE}) {{ items {{ user_id secret_key }} }} }}"
    for who, hidden in ((place.admin, {"admin@backendai.local"}), (place.superadmin, set())):
        items = (await ask(query, by=who))["data"]["keypair_list"]["items"]
        assert {item["user_id"] for item in items if item["secret_key"] is None} == hidden
    query = f'{{ keypair(access_key: "{place.superadmin.access_key}") {{ secret_key }} }}'
    assert (await ask(query, by=place.admin))["data"] == {"keypair": {"secret_key": None}}
