"""Templates over HTTP: what each generation sends and expects, and what a session made from one is to be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
import yaml
from fake_keepers import DOCUMENT, TEMPLATE_ID, FakeTemplates
from fakes import USER, Fakes
from gateway_client import SigningClient

from backendai.core.errors import InvalidParameters
from backendai.core.session import SessionType, SessionWish
from backendai.core.template import TemplateKind, check_mount_point
from backendai.gateway.template_document import MAX_PAYLOAD, draft_of, read_drafts
from backendai.gateway.template_wish import parse_cluster_wish, parse_template_wish
from backendai.gateway.versions import ApiVersion

V6 = ApiVersion(6, "20220315")
MANY = json.dumps(
    {"session_templates": [{"template": yaml.safe_load(DOCUMENT) | {"api_version": "6"}, "name": "one"}] * 2}
)


def edited(**changes: Any) -> str:
    """The document with values by dotted path replaced, as JSON; None removes one."""
    document = yaml.safe_load(DOCUMENT) | {"api_version": "6"}
    for path, value in changes.items():
        *above, name = path.split("__")
        place = document
        for each in above:
            place = place[each]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(document)


def test_a_document_in_its_normal_form() -> None:
    draft = draft_of(DOCUMENT, TemplateKind.SESSION)
    assert draft.name == "mine"
    assert draft.document["spec"] == {
        "session_type": "interactive",
        "kernel": {
            "image": "python:3.11",
            "architecture": "x86_64",
            "environ": {"COLOUR": "blue"},
            "run": {"bootstrap": "make ready", "startup_command": None},
            "git": None,
        },
        "scaling_group": "large",
        "mounts": {"data": "/data"},
        "resources": {"cpu": "2", "mem": "1g"},
        "agent_list": None,
    }
    # What was kept can be sent again, and client 20.03 sends all lines with empty ones between them.
    again = draft_of(yaml.safe_dump(draft.document), TemplateKind.SESSION)
    assert again == draft
    assert [each.name for each in read_drafts(MANY, TemplateKind.SESSION)] == ["one", "one"]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (edited(spec__kernel__image=None), "spec.kernel.image"),
        (edited(metadata__name=None), "metadata.name"),
        (edited(kind="other"), "kind"),
        (edited(spec__mounts={"data": "/home/work/.ssh"}), "spec.mounts"),
        (edited(spec__mounts={"data": "/etc"}), "spec.mounts"),
        (edited(spec__type="forever"), "spec.type"),
        (edited(spec__resources={"cpu": [1]}), "spec.resources"),
        (edited(spec__kernel__git={"branch": "main"}), "spec.kernel.git.repository"),
        (
            edited(spec__kernel__git={"repository": "x", "branch": "--option"}),
            "spec.kernel.git.branch",
        ),
        (edited(spec__kernel__git={"repository": "https://host/.git"}), "spec.kernel.git.repository"),
        (edited(spec__kernel="nothing"), "spec.kernel"),
    ],
)
def test_documents_that_are_refused(payload: str, field: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        read_drafts(payload, TemplateKind.SESSION)
    assert field in caught.value.data, caught.value.data


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        "just words",
        "a: &x [1]\nb: *x\n",
        "!!python/object/apply:os.system [id]",
        'metadata: "\\0"',
        "{" * 1000,
        '{"session_templates": []}',
        '{"session_templates": [1]}',
    ],
)
def test_payloads_that_are_no_templates(payload: str) -> None:
    with pytest.raises(InvalidParameters):
        read_drafts(payload, TemplateKind.SESSION)


def cluster(*nodes: dict[str, Any]) -> str:
    return json.dumps(
        {
            "api_version": "6",
            "kind": "clusterTemplate",
            "mode": "multi-node",
            "metadata": {"name": "both"},
            "spec": {"nodes": nodes},
        }
    )


def test_clusters() -> None:
    main = {"role": "main", "session_template": str(TEMPLATE_ID)}
    sub = {"role": "sub", "session_template": TEMPLATE_ID.hex, "replicas": "2"}
    document = draft_of(cluster(main, sub), TemplateKind.CLUSTER).document
    assert document["spec"]["nodes"] == [
        {**main, "replicas": 1},
        {**sub, "session_template": str(TEMPLATE_ID), "replicas": 2},
    ]
    for nodes in ([], [sub], [main, main], [{**main, "replicas": 2}], [{"role": "main"}], [3]):
        with pytest.raises(InvalidParameters):
            draft_of(cluster(*nodes), TemplateKind.CLUSTER)


def test_where_folders_can_be() -> None:
    for path in ("data", "/data", "/home/work/data", "/mnt/data", "a/../b", ".bashrc.d"):
        assert check_mount_point(path) == path
    for path in ("/", "/home/work", "/tmp", ".bashrc", ".bash_profile", "/home/work/.jupyter", "x/../.ssh"):
        with pytest.raises(ValueError, match="reserved"):
            check_mount_point(path)


async def wish_of(body: dict[str, Any], *, git: dict[str, Any] | None = None) -> SessionWish:
    template = await FakeTemplates().get(USER, TemplateKind.SESSION, TEMPLATE_ID)
    if git is not None:
        document = json.loads(edited(spec__kernel__git=git))
        document = draft_of(json.dumps(document), TemplateKind.SESSION).document
        template = msgspec.structs.replace(template, document=document)
    return parse_template_wish(body, template, V6, datetime(2026, 11, 1, tzinfo=UTC))


async def test_what_is_left_out_is_as_the_template_has_it() -> None:
    wish = await wish_of({"config": {"mounts": []}, "image": None, "starts_at": None})
    assert wish.name.startswith("session-")
    assert (wish.image, wish.project, wish.domain, wish.tag) == ("python:3.11", "default", "default", "blue")
    assert (wish.environ, wish.resources) == ({"COLOUR": "blue"}, {"cpu": "2", "mem": "1g"})
    assert (wish.mounts, wish.mount_map) == (("data",), {"data": "/data"})
    assert (wish.bootstrap_script, wish.scaling_group) == ("make ready", "large")


async def test_what_is_said_counts() -> None:
    said = {
        "name": "my-session",
        "lang": "other",
        "sessionType": "batch",
        "startupCommand": "go",
        "groupName": "mine",
        "tag": "red",
        "config": {"mounts": ["x"], "environ": {}, "resources": {"cpu": 1}, "scalingGroup": "small"},
    }
    wish = await wish_of(said)
    assert (wish.name, wish.image, wish.project, wish.tag) == ("my-session", "other", "mine", "red")
    assert (wish.type, wish.startup_command) == (SessionType.BATCH, "go")
    assert (wish.environ, wish.resources, wish.scaling_group) == ({}, {"cpu": 1}, "small")
    assert (wish.mounts, wish.mount_map) == (("x",), {})
    # `--no-mount`
    none = await wish_of({"config": {"mounts": [], "mount_map": {}}})
    assert (none.mounts, none.mount_map) == ((), {})
    with pytest.raises(InvalidParameters, match="Error while validating template"):
        await wish_of({"name": "-"})


async def test_a_repository_is_cloned_after_the_bootstrap_script() -> None:
    git = {
        "repository": "https://host/some project.git",
        "branch": "main",
        "commit": "12e4",
        "credential": {"username": "me", "password": "it's $ecret"},
    }
    script = (await wish_of({}, git=git)).bootstrap_script
    assert script is not None
    assert script.startswith("(\nmake ready\n)\n")
    assert "clone --branch=main -- 'https://host/some project.git' 'some project'" in script
    assert "git -C 'some project' checkout --quiet 12e4" in script
    wish = await wish_of({"bootstrap_script": ""}, git={"repository": "x/y", "dest_dir": "z"})
    assert wish.bootstrap_script is not None
    assert "clone -- x/y z" in wish.bootstrap_script
    assert wish.bootstrap_script.count("\n") == 1


async def test_each_generation_gets_what_it_expects(client: SigningClient, fakes: Fakes) -> None:
    body = {"payload": DOCUMENT, "group_name": "default", "domain_name": "default", "owner_access_key": None}
    made = {"id": TEMPLATE_ID.hex, "user": USER.user_id.hex}
    old = {"version": "v5.20191215"}
    named = "Backend.AI Client for Python {}"

    for options, agent, answer in (
        (old, named.format("20.03.10"), made),
        ({}, named.format("22.03.2"), made),
        ({}, named.format("23.09.10"), [made]),
        ({"version": "v9.20250722"}, "anything", [made]),
    ):
        sent = await client("POST", "/template/session", body, headers={"User-Agent": agent}, **options)
        assert (sent.status_code, sent.json()) == (200, answer)

    one = f"/template/session/{TEMPLATE_ID}"
    newer = await client("GET", one)
    assert newer.json()["template"]["metadata"]["name"] == "mine"
    assert newer.json()["user_uuid"] == str(USER.user_id)
    assert yaml.safe_load((await client("GET", one, **old)).text) == newer.json()["template"]
    assert (await client("GET", f"{one}?format=json", **old)).json() == newer.json()["template"]

    listed = (await client("GET", "/template/session", {"all": False})).json()
    assert (listed[0]["type"], listed[0]["is_owner"], "template" in listed[0]) == ("task", True, True)
    listed = (await client("GET", "/template/session", {"all": False}, **old)).json()
    assert (listed[0]["type"], listed[0]["id"], "template" in listed[0]) == ("user", TEMPLATE_ID.hex, False)

    assert (await client("PUT", one, {"payload": DOCUMENT})).json() == {"success": True}
    assert fakes.keepers.templates.calls[-1][-2:] == (None, None)
    assert (await client("DELETE", one)).json() == {"success": True}
    assert (await client("GET", "/template/session/nothing")).status_code == 404
    assert (await client("GET", f"/template/session/{UUID(int=0)}")).status_code == 404
    too_long = {"payload": "x" * (MAX_PAYLOAD + 1)}
    assert (await client("POST", "/template/session", too_long)).status_code in (400, 413)


async def test_sessions_are_made_from_templates(client: SigningClient, fakes: Fakes) -> None:
    path = "/session/_/create-from-template"
    made = await client("POST", path, {"template_id": str(TEMPLATE_ID), "name": "from-one"})
    assert made.status_code == 201
    assert fakes.sessions.calls[-1][-1].image == "python:3.11"
    made = await client("POST", path, {"template_id": None, "name": "from-none", "image": "bash"})
    assert (made.status_code, fakes.sessions.calls[-1][-1].image) == (201, "bash")
    for body, status in (
        ({"name": "from-one", "image": "bash"}, 400),
        ({"name": "from-one", "template_id": None}, 400),
        ({"name": "from-one", "template_id": "x"}, 400),
        ({"name": "from-one", "template_id": str(UUID(int=0))}, 404),
    ):
        assert (await client("POST", path, body)).status_code == status


async def test_clusters_are_made_from_templates(client: SigningClient, fakes: Fakes) -> None:
    path, body = "/session/_/create-cluster", {"template_id": str(TEMPLATE_ID), "clientSessionToken": "both"}
    made = await client("POST", path, {**body, "scaling_group": "small", "enqueueOnly": True})
    assert (made.status_code, made.json()["kernelId"]) == (201, "both")
    wish = fakes.sessions.calls[-1][-1]
    assert (wish.cluster_size, wish.cluster_mode, wish.scaling_group) == (3, "multi-node", "small")
    assert wish.environ == {"COLOUR": "blue", "SHAPE": "round"}
    assert (wish.reuse, wish.enqueue_only, wish.sub_resources) == (False, True, wish.resources)
    assert (await client("POST", path, {"clientSessionToken": "both"})).status_code == 400
    nodes = fakes.keepers.templates.cluster["spec"]["nodes"]
    nodes[1]["role"] = "worker"
    refused = await client("POST", path, body)
    assert (refused.status_code, "spec.nodes" in refused.json()["data"]) == (400, True)


async def test_nodes_may_differ_in_resources_only() -> None:
    templates = FakeTemplates()
    cluster = await templates.get(USER, TemplateKind.CLUSTER, TEMPLATE_ID)
    main = await templates.get(USER, TemplateKind.SESSION, TEMPLATE_ID)
    sub_id = UUID(cluster.document["spec"]["nodes"][1]["session_template"])
    for changes, fits in (
        ({"spec__resources": {"cpu": 4}}, True),
        ({"spec__kernel__environ": {"COLOUR": "red"}}, False),
    ):
        document = draft_of(edited(**changes), TemplateKind.SESSION).document
        nodes = {TEMPLATE_ID: main, sub_id: msgspec.structs.replace(main, document=document)}
        now = datetime(2026, 11, 1, tzinfo=UTC)
        if fits:
            wish = parse_cluster_wish({}, cluster, nodes, V6, now)
            assert (wish.resources, wish.sub_resources) == ({"cpu": "2", "mem": "1g"}, {"cpu": 4})
        else:
            with pytest.raises(InvalidParameters):
                parse_cluster_wish({}, cluster, nodes, V6, now)
