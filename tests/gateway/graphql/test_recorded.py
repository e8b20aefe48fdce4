"""What the official clients send, letter by letter (20.03 = A, 22.03 = B, 23.09 = C, 25.5 = D, 26.9 = E)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graphql import FieldNode, SelectionSetNode, parse
from graphql_place import SESSION, Ask, Place

from backendai.gateway.graphql.endpoint import answer
from backendai.manager.directory import DirectoryService

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text())
_POLICY = (
    "name created_at total_resource_slots max_concurrent_sessions max_containers_per_session idle_timeout"
    " allowed_vfolder_hosts"
)
_GROUP = "name description is_active created_at domain_name total_resource_slots allowed_vfolder_hosts"
_DOMAIN = f"{_GROUP.replace('domain_name ', '')} allowed_docker_registries"
_SCALING = "name description is_active created_at driver driver_opts scheduler scheduler_opts"
_SCALING_C = f"{_SCALING} wsproxy_addr is_public use_host_network wsproxy_api_token"
#: Further reads, as the clients' field tables put them together.
OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    (
        "A",
        f"query($name: String) {{ domain(name: $name) {{ {_DOMAIN} scaling_groups }} }}",
        {"name": "default"},
    ),
    ("BCDE", f"query {{ domains {{ {_DOMAIN} integration_id }} }}", {}),
    ("A", f"query($gid: UUID!) {{ group(id: $gid) {{ id {_GROUP} }} }}", {"gid": "PROJECT"}),
    (
        "CDE",
        "query($name: String!, $domain_name: String) { groups_by_name(name: $name, domain_name: $domain_name)"
        f" {{ id {_GROUP} integration_id }} }}",
        {"name": "default", "domain_name": "default"},
    ),
    (
        "BCDE",
        "query($domain_name: String) { groups(domain_name: $domain_name)"
        " { id name is_active created_at integration_id } }",
        {"domain_name": "default"},
    ),
    ("A", f"query($name: String) {{ scaling_group(name: $name) {{ {_SCALING} }} }}", {"name": "default"}),
    ("CDE", f"query($name: String) {{ scaling_group(name: $name) {{ {_SCALING_C} }} }}", {"name": "default"}),
    (
        "ABCDE",
        f"query($is_active: Boolean) {{ scaling_groups(is_active: $is_active) {{ {_SCALING} }} }}",
        {"is_active": None},
    ),
    (
        "ABC",
        "query($name: String) { keypair_resource_policy(name: $name)"
        f" {{ {_POLICY} default_for_unspecified max_vfolder_count max_vfolder_size }} }}",
        {"name": "default"},
    ),
    (
        "DE",
        f"query {{ keypair_resource_policies {{ {_POLICY} max_session_lifetime max_concurrent_sftp_sessions"
        " max_pending_session_count max_pending_session_resource_slots } }",
        {},
    ),
    ("E", "{ user_list(limit: 20, offset: 0) { items { id } total_count } }", {}),
]


def _sent_by(client: str) -> list[tuple[bool, dict[str, Any]]]:
    """Whether to the legacy endpoint, and the body."""
    cases = [(r["path"].endswith("graphql"), r["body"]) for r in RECORDED if client in r["clients"]]
    others = [(client == "A", {"query": query, "variables": v}) for c, query, v in OTHERS if client in c]
    return cases + others


def _same_order(selections: SelectionSetNode, answer: dict[str, Any]) -> None:
    """Clients pair table columns with values by position."""
    keys: list[str] = []
    for node in selections.selections:
        assert isinstance(node, FieldNode)
        if node.name.value not in keys:
            keys.append(node.name.value)
        below = answer[node.name.value]
        for item in below if isinstance(below, list) else [below]:
            if node.selection_set and item is not None:
                _same_order(node.selection_set, item)
    assert list(answer) == keys


@pytest.mark.parametrize("client", "ABCDE")
async def test_answered(directory: DirectoryService, place: Place, client: str) -> None:
    for legacy, body in _sent_by(client):
        text = json.dumps(body).replace("PROJECT", str(place.default_project))
        asker = place.user if "compute_session(" in text else place.superadmin
        status, reply, _ = await answer(directory, asker, text.encode(), legacy=legacy)
        document = json.loads(reply)
        assert status == 200
        assert "errors" not in document, text
        data = document if legacy else document["data"]
        for value in data.values():
            assert value, "an installation with one of everything has something to show"
        definition: Any = parse(body["query"]).definitions[0]
        _same_order(definition.selection_set, data)


async def test_session_info(ask: Ask, place: Place) -> None:
    """The values behind ``session info``, in the forms clients parse."""
    (query,) = (
        record["body"]["query"]
        for record in RECORDED
        if (record["command"], record["clients"]) == ("session info", "C")
    )
    document = await ask(query, {"id": str(SESSION).upper()}, by=place.user)
    session = document["data"]["compute_session"]
    (container,) = session.pop("containers")
    assert session == {
        "name": "mine",
        "id": str(SESSION),
        "main_kernel_id": str(SESSION),
        "image": "local/python:3.11",
        "tag": None,
        "created_at": "2026-04-01T01:02:03.123456+00:00",
        "terminated_at": None,
        "status": "RUNNING",
        "status_info": None,
        "status_data": '{"scheduler": {"retries": 0}}',
        "occupying_slots": '{"cpu": "1", "mem": "1073741824"}',
        "idle_checks": "{}",
        "dependencies": [session["dependencies"][0]],
    }
    assert session["dependencies"][0]["name"] == "needed"
    live = json.loads(container.pop("live_stat"))
    assert json.loads(container.pop("last_stat")) == live
    assert live["mem"] == {
        "current": "1000",
        "capacity": None,
        "pct": None,
        "unit_hint": "bytes",
        "stats.max": "2000",
    }
    assert container == {
        "id": str(SESSION),
        "cluster_role": "main",
        "cluster_idx": 1,
        "cluster_hostname": "main1",
        "session_id": str(SESSION),
        "image": "local/python:3.11",
        "registry": "local",
        "status": "RUNNING",
        "status_info": None,
        "status_data": None,
        "status_changed": "2026-04-01T01:02:03.123456+00:00",
        "agent": "i-local",
        "container_id": "c0ffee",
        "resource_opts": "{}",
        "occupied_slots": '{"cpu": "1", "mem": "1073741824"}',
        "preopen_ports": [8080],
    }


async def test_values_that_clients_cannot_do_without(ask: Ask, place: Place) -> None:
    """A null here crashes some client (contract 06 §4.2)."""
    place.measured.heard.nodes.clear()
    document = await ask(
        '{ agent(agent_id: "i-local") { available_slots occupied_slots mem_cur_bytes cpu_cur_pct live_stat'
        " hardware_metadata local_config addr } images { size_bytes labels { key value } aliases installed"
        " resource_limits { key min max } supported_accelerators installed_agents }"
        " user { groups { id name } }"
        " keypair { user_info { full_name } projects concurrency_used concurrency_limit } domains"
        " { total_resource_slots allowed_vfolder_hosts } keypair_resource_policies { max_vfolder_size"
        " max_pending_session_resource_slots } }"
    )
    data = document["data"]
    assert data["agent"]["live_stat"] == '{"node": {}, "devices": {}}'
    assert (data["agent"]["mem_cur_bytes"], data["agent"]["cpu_cur_pct"]) == (0.0, 0.0)
    assert data["agent"]["occupied_slots"] == '{"cpu": "0", "mem": "0"}'
    assert data["images"] == [
        {
            "size_bytes": float(8 << 30),
            "labels": [{"key": "ai.backend.role", "value": "COMPUTE"}],
            "aliases": ["python"],
            "installed": True,
            "resource_limits": [{"key": "cpu", "min": "1", "max": None}],
            "supported_accelerators": [""],
            "installed_agents": ["i-local"],
        }
    ]
    assert data["user"]["groups"] == [{"id": str(place.default_project), "name": "default"}]
    assert data["keypair"] == {
        "user_info": {"full_name": "Admin"},
        "projects": ["default"],
        "concurrency_used": 0,
        "concurrency_limit": 0,
    }
    assert data["domains"][0] == {"total_resource_slots": "{}", "allowed_vfolder_hosts": []}
    assert data["keypair_resource_policies"] == [
        {"max_vfolder_size": 0, "max_pending_session_resource_slots": None}
    ]


async def test_agent_load(ask: Ask, place: Place) -> None:
    document = await ask('{ agent(agent_id: "i-local") { cpu_cur_pct mem_cur_bytes live_stat } }')
    agent = document["data"]["agent"]
    assert (agent["cpu_cur_pct"], agent["mem_cur_bytes"]) == (12.3, float(4 << 30))
    stat = json.loads(agent["live_stat"])
    assert stat["node"]["cpu_util"]["unit_hint"] == "pct"
    assert "cpu_util" in stat["devices"]
    assert stat["node"]["mem"]["pct"] == "25.00"
